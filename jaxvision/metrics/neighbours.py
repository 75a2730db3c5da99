"""Weighted k nearest neighbours: how good features are without training anything on them."""

import numpy as np
from jaxtyping import Float, Int

NEIGHBOURS, TEMPERATURE = 20, 0.07
_ROWS = 1_024  # evaluation images that are compared at once


def knn_accuracy(
    train: Float[np.ndarray, "examples width"],
    train_labels: Int[np.ndarray, " examples"],
    test: Float[np.ndarray, "others width"],
    test_labels: Int[np.ndarray, " others"],
    *,
    num_classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> float:
    """Returns the share of examples whose class has most of the votes of the nearest neighbours.

    A neighbour votes for its class with exp(cosine similarity / temperature).

    Args:
      train: Features of the examples that vote.
      train_labels: Class indices of them.
      test: Features of the examples that are classified.
      test_labels: Class indices of them.
      num_classes: Number of classes.
      neighbours: Number of neighbours that vote; of fewer examples, all do.
      temperature: Temperature of the votes; above 0.

    Source: Wu et al. 2018, Unsupervised Feature Learning via Non-Parametric Instance
      Discrimination, section 3.4.
    """
    known, new = _unit(train), _unit(test)
    count, right = min(neighbours, len(known)), 0
    for first in range(0, len(new), _ROWS):
        part = slice(first, first + _ROWS)
        similarity = new[part] @ known.T
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        chosen = np.take_along_axis(similarity, nearest, axis=1)
        # Less the largest: exp cannot overflow, and the order of the votes stays.
        weights = np.exp((chosen - chosen.max(axis=1, keepdims=True)) / temperature)
        votes = np.zeros((len(similarity), num_classes))
        np.add.at(votes, (np.arange(len(votes))[:, None], train_labels[nearest]), weights)
        right += int(np.sum(np.argmax(votes, axis=1) == test_labels[part]))
    return right / len(new)


def _unit(features: np.ndarray) -> np.ndarray:
    wide = np.asarray(features, np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
