"""Everything that the logits of a split say about a classifier, as JSON can hold it."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxvision.data.class_lists import readable
from jaxvision.metrics.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    probabilities,
    reliability,
)
from jaxvision.metrics.classification import topk_correct
from jaxvision.metrics.confusion import class_scores, confusion_matrix, most_confused

MAX_MATRIX = 100  # classes whose whole confusion matrix is told; of more, the worst pairs are
NUM_PAIRS = 50  # worst ones: true class, predicted class, images, and all of the true class
_ROWS = 4096  # logits that are looked at in one go


def guesses_of(logits: Float[np.ndarray, "examples classes"]) -> Int[np.ndarray, " examples"]:
    """Returns the predicted classes."""
    return np.argmax(logits, axis=-1)


def classification_scores(
    logits: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
    class_names: tuple[str, ...],
) -> dict[str, Any]:
    """Returns {"accuracy", "top5_accuracy", "balanced_accuracy", "loss", "calibration", ...}.

    The rest is "classes" and "confusion". `top5_accuracy` is there with more than five classes,
    `balanced_accuracy` is the mean recall of the classes that have images. `loss` is the mean
    negative log-likelihood, in nats. `calibration` is None where a logit is not finite. Its
    temperature is that of all images. What it brings is measured fairly: each half of the images,
    the even and the odd ones, is scaled by the temperature of the other half.

    Args:
      logits: Logits of the images.
      labels: Class indices of the images.
      class_names: Names of the classes by label; classes beyond them are called by their index.
    """
    logits = np.asarray(logits, np.float32)  # so that all of the below see the same ties
    num_classes = logits.shape[-1]
    guesses = guesses_of(logits)
    parts = [slice(i, i + _ROWS) for i in range(0, len(labels), _ROWS)]
    accuracy, top5 = (
        sum(
            float(np.sum(topk_correct(jnp.asarray(logits[p]), jnp.asarray(labels[p]), k=k)))
            for p in parts
        )
        / len(labels)
        for k in (1, 5)
    )
    names = [*readable(class_names), *map(str, range(len(class_names), num_classes))]
    columns = class_scores(labels, guesses, num_classes=num_classes)
    matrix = None
    if num_classes <= MAX_MATRIX:
        matrix = confusion_matrix(labels, guesses, num_classes=num_classes).tolist()
    finite = bool(np.isfinite(logits).all())
    return {
        "accuracy": accuracy,
        **({"top5_accuracy": top5} if num_classes > 5 else {}),
        "balanced_accuracy": float(np.mean(columns["recall"][columns["support"] > 0])),
        "loss": negative_log_likelihood(logits, labels) if finite else None,
        "calibration": _calibration(logits, labels) if finite else None,
        "classes": [
            {"class": name} | {key: column[i].item() for key, column in columns.items()}
            for i, name in enumerate(names)
        ],
        "confusion": {
            "matrix": matrix,
            "most_confused": [
                {
                    "true": names[true],
                    "predicted": names[guess],
                    "count": count,
                    "of": int(columns["support"][true]),
                }
                for true, guess, count in most_confused(labels, guesses, count=NUM_PAIRS)
            ],
        },
    }


def _calibration(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    before = probabilities(logits)
    after, losses = np.empty_like(before), []
    halves = (slice(0, None, 2), slice(1, None, 2))
    if len(labels) == 1:
        halves = (slice(None), slice(None))
    for half, other in (halves, halves[::-1]):
        temperature = fit_temperature(logits[other], labels[other])
        after[half] = probabilities(logits[half], temperature=temperature)
        losses.append(
            len(labels[half])
            * negative_log_likelihood(logits[half], labels[half], temperature=temperature)
        )
    tables = [_reliability(shares, labels) for shares in (before, after)]
    return {
        "temperature": fit_temperature(logits, labels),
        "ece": expected_calibration_error(tables[0]),
        "ece_after_temperature": expected_calibration_error(tables[1]),
        "loss_after_temperature": sum(losses) / sum(len(labels[half]) for half in halves),
        "reliability": _rows(tables[0]),
        "reliability_after_temperature": _rows(tables[1]),
    }


def _reliability(shares: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    correct = (guesses_of(shares) == labels).astype(np.float64)
    return reliability(shares.max(axis=-1), correct)


def _rows(table: dict[str, np.ndarray]) -> list[dict[str, float | int | None]]:
    rows = (
        {key: column[i].item() for key, column in table.items()} for i in range(len(table["count"]))
    )
    return [
        {key: None if isinstance(x, float) and math.isnan(x) else x for key, x in row.items()}
        for row in rows
    ]
