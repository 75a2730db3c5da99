"""Which classes a classifier finds, and which it takes for which."""

import numpy as np
from jaxtyping import Float64, Int, Int64


def confusion_matrix(
    labels: Int[np.ndarray, " examples"],
    guesses: Int[np.ndarray, " examples"],
    *,
    num_classes: int,
) -> Int64[np.ndarray, "classes classes"]:
    """Returns the number of examples of each true class (row) with each predicted one (column)."""
    places = np.asarray(labels, np.int64) * num_classes + guesses
    return np.bincount(places, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(
    labels: Int[np.ndarray, " examples"],
    guesses: Int[np.ndarray, " examples"],
    *,
    num_classes: int,
) -> dict[str, Float64[np.ndarray, " classes"] | Int64[np.ndarray, " classes"]]:
    """Returns the scores of each class as scikit-learn's `precision_recall_fscore_support` does.

    A class that is never predicted has precision 0, one without examples recall 0, and either of
    them F1 0; so does scikit-learn, with a warning.

    Returns:
      {"precision": share of its predictions that are right, "recall": share of its examples that
      are found, "f1": their harmonic mean, "support": its examples}.
    """
    true = np.bincount(labels[labels == guesses], minlength=num_classes)
    predicted = np.bincount(guesses, minlength=num_classes)
    support = np.bincount(labels, minlength=num_classes)
    return {
        "precision": true / np.maximum(predicted, 1),
        "recall": true / np.maximum(support, 1),
        "f1": 2 * true / np.maximum(predicted + support, 1),
        "support": support,
    }


def most_confused(
    labels: Int[np.ndarray, " examples"], guesses: Int[np.ndarray, " examples"], *, count: int
) -> list[tuple[int, int, int]]:
    """Returns the most common mistakes as (true class, predicted class, examples).

    The most common comes first; equally common ones are in the order of their classes.
    """
    wrong = np.stack([labels, guesses], axis=1)[labels != guesses]
    pairs, counts = np.unique(wrong, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:count]
    return [(int(pairs[i, 0]), int(pairs[i, 1]), int(counts[i])) for i in order]
