"""Few-shot classification: ridge regression from features to classes, in closed form."""

import numpy as np
from jaxtyping import Float, Int

BIAS = 100.0  # a constant feature: so large that the regularisation hardly shrinks its weight
L2_GRID = tuple(2.0**i for i in range(-10, 20))
MIN_DEVIATION = 1e-5  # of a feature that is the same in all shots


class RidgeClassifier:
    """A linear regression onto +1 for the true class and -1 for the others, for many l2 at once.

    The features are whitened one by one, with mean and deviation of the shots.

    Args:
      features: Features of the shots.
      labels: Class indices of the shots.
      num_classes: Number of classes of the data.

    Source: Dosovitskiy et al. 2021, section 4.1: few-shot accuracies.
    """

    def __init__(
        self,
        features: Float[np.ndarray, "shots width"],
        labels: Int[np.ndarray, " shots"],
        *,
        num_classes: int,
    ):
        features = np.asarray(features, np.float64)
        self._mean = features.mean(axis=0)
        self._deviation = features.std(axis=0) + MIN_DEVIATION
        inputs = self._whiten(features)
        targets = 2.0 * np.eye(num_classes)[labels] - 1.0
        # (X'X + l2)^-1 X'Y = X'(XX' + l2)^-1 Y: the smaller of the two is decomposed, once.
        self._narrow = inputs.shape[1] <= inputs.shape[0]
        gram = inputs.T @ inputs if self._narrow else inputs @ inputs.T
        self._eigenvalues, self._vectors = np.linalg.eigh(gram)
        self._projected = self._vectors.T @ (inputs.T @ targets if self._narrow else targets)
        self._inputs = inputs

    def weights(self, l2: float) -> Float[np.ndarray, "inputs classes"]:
        """Returns the solution for one l2 > 0, by whitened feature; the last row is of the bias."""
        scaled = self._projected / (np.maximum(self._eigenvalues, 0.0) + l2)[:, None]
        solution = self._vectors @ scaled
        return solution if self._narrow else self._inputs.T @ solution

    def accuracy(
        self,
        features: Float[np.ndarray, "examples width"],
        labels: Int[np.ndarray, " examples"],
        *,
        l2: float,
    ) -> float:
        """Returns the share of examples whose class has the greatest output."""
        weights, right = self.weights(l2), 0
        for first in range(0, len(labels), 4096):
            part = slice(first, first + 4096)
            guesses = np.argmax(self._whiten(features[part]) @ weights, axis=-1)
            right += int(np.sum(guesses == labels[part]))
        return right / len(labels)

    def _whiten(self, features: np.ndarray) -> np.ndarray:
        whitened = (np.asarray(features, np.float64) - self._mean) / self._deviation
        return np.pad(whitened, ((0, 0), (0, 1)), constant_values=BIAS)


def draw_shots(
    labels: Int[np.ndarray, " examples"], *, shots: int, seed: int
) -> Int[np.ndarray, " shots"]:
    """Returns the places of as many examples of each class, drawn without replacement."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    return np.concatenate([order[labels[order] == label][:shots] for label in np.unique(labels)])
