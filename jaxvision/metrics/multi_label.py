"""What the scores of several labels an image are worth, in numpy; missing labels count nowhere.

A label is 1 where the class is there, 0 where it is not, and below 0 where nobody knows.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

Scores = Float[np.ndarray, "examples classes"]
Labels = Int[np.ndarray, "examples classes"]


def average_precision(
    scores: Float[np.ndarray, " examples"], labels: Int[np.ndarray, " examples"]
) -> float:
    """Returns the average precision of one class: the mean of precision over steps of recall.

    Equal scores are one step, so that their order makes no difference. It is scikit-learn's
    `average_precision_score`, except that it is NaN where no label is 1.

    Args:
      scores: Score of each example; higher is more certain.
      labels: 1 and 0; others are left out.
    """
    known = labels >= 0
    precision, recall, _ = _curve(scores[known], labels[known])
    return float(np.sum(np.diff(recall, prepend=0.0) * precision)) if len(recall) else np.nan


def _curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns precision, recall and threshold of each distinct score, the highest first.

    Nothing if no label is 1.
    """
    if not (labels == 1).any():
        return np.zeros(0), np.zeros(0), np.zeros(0)
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(labels[order] == 1)
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    return hits[ends] / (ends + 1), hits[ends] / hits[-1], scores[ends]


def mean_average_precision(scores: Scores, labels: Labels) -> dict[str, float]:
    """Returns {"map", "map_micro"}: the mean over classes, and that of all labels as one class.

    A class without a 1 has none and is left out of the mean, as torchmetrics does; 0 without any.

    Args:
      scores: Score of each class of each example.
      labels: Labels of each class of each example.
    """
    each = [average_precision(*column) for column in zip(scores.T, labels.T, strict=True)]
    found = np.array(each)[~np.isnan(each)]
    micro = average_precision(scores.ravel(), labels.ravel())
    return {
        "map": float(found.mean()) if len(found) else 0.0,
        "map_micro": 0.0 if np.isnan(micro) else micro,
    }


def count_outcomes(
    said: Bool[np.ndarray, "examples classes"], labels: Labels
) -> dict[str, Int64[np.ndarray, " classes"]]:
    """Returns {"tp", "fp", "fn", "tn"}: of each class, what was said and what is there.

    They are the entries of scikit-learn's `multilabel_confusion_matrix`.

    Args:
      said: Whether each class is said of each example.
      labels: Labels of each class of each example.
    """
    there, absent = labels == 1, labels == 0
    return {
        "tp": np.sum(said & there, axis=0),
        "fp": np.sum(said & absent, axis=0),
        "fn": np.sum(~said & there, axis=0),
        "tn": np.sum(~said & absent, axis=0),
    }


def f1_scores(
    said: Bool[np.ndarray, "examples classes"], labels: Labels
) -> dict[str, float | Float64[np.ndarray, " classes"]]:
    """Returns {"f1", "f1_micro", "precision", "recall", "f1_by_class"}.

    `f1` is the mean over all classes, where one that is neither there nor said has 0, as in
    scikit-learn with `zero_division=0`.

    Args:
      said: Whether each class is said of each example.
      labels: Labels of each class of each example.
    """
    outcomes = count_outcomes(said, labels)
    tp, fp, fn = (outcomes[key] for key in ("tp", "fp", "fn"))
    f1 = 2 * tp / np.maximum(2 * tp + fp + fn, 1)
    return {
        "f1": float(f1.mean()),
        "f1_micro": float(2 * tp.sum() / max(2 * tp.sum() + fp.sum() + fn.sum(), 1)),
        "precision": tp / np.maximum(tp + fp, 1),
        "recall": tp / np.maximum(tp + fn, 1),
        "f1_by_class": f1,
    }


def best_thresholds(scores: Scores, labels: Labels) -> Float64[np.ndarray, " classes"]:
    """Returns the score of each class from which on saying it gives the best F1.

    It is one of the scores, the highest of those that are equally good, as on scikit-learn's
    `precision_recall_curve`; 0.5 for a class of which no label is 1.

    Args:
      scores: Score of each class of each example.
      labels: Labels of each class of each example.
    """
    thresholds = np.full(scores.shape[1], 0.5)
    for i, (column, truth) in enumerate(zip(scores.T, labels.T, strict=True)):
        precision, recall, places = _curve(column[truth >= 0], truth[truth >= 0])
        if len(places):
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
            thresholds[i] = places[np.argmax(f1)]
    return thresholds


def confused_pairs(
    said: Bool[np.ndarray, "examples classes"], labels: Labels
) -> Int64[np.ndarray, "classes classes"]:
    """Returns in how many examples a class (row) was missed and another (column) said wrongly.

    Args:
      said: Whether each class is said of each example.
      labels: Labels of each class of each example.
    """
    missed, wrong = ~said & (labels == 1), said & (labels == 0)
    return missed.T.astype(np.int64) @ wrong.astype(np.int64)


def multi_label_scores(
    scores: Scores, labels: Labels, thresholds: Float[np.ndarray, " classes"]
) -> dict[str, Any]:
    """Returns the metrics of all classes together, as an evaluation reports them.

    Args:
      scores: Probability of each class of each example.
      labels: Labels of each class of each example.
      thresholds: Probability of each class from which on it is said.

    Returns:
      {"map", "map_micro", "f1", "f1_micro"} at 0.5, {"f1_tuned", "f1_micro_tuned"} at the
      thresholds.
    """
    halves, tuned = (f1_scores(scores >= at, labels) for at in (0.5, thresholds))
    return mean_average_precision(scores, labels) | {
        "f1": halves["f1"],
        "f1_micro": halves["f1_micro"],
        "f1_tuned": tuned["f1"],
        "f1_micro_tuned": tuned["f1_micro"],
    }


def sigmoid(
    logits: Float[np.ndarray, "examples classes"],
) -> Float64[np.ndarray, "examples classes"]:
    """Returns probabilities, in float64: near 1, float32 would make different logits equal."""
    logits = logits.astype(np.float64)
    return np.exp(-np.logaddexp(0.0, -logits))


def cross_entropy(logits: Scores, labels: Labels) -> float:
    """Returns the mean binary cross-entropy over all known labels, in nats."""
    logits = logits.astype(np.float64)
    terms = np.logaddexp(0.0, logits) - logits * labels
    return float(np.mean(terms[labels >= 0]))
