"""How far a classifier's probabilities can be believed, and the temperature that mends them."""

import numpy as np
from jaxtyping import Float, Int

NUM_BINS = 15  # of Guo et al.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0  # where all, or no more than by chance, is right
_ROWS = 256  # logits at once: what fits into a core's cache is several times as fast


def probabilities(
    logits: Float[np.ndarray, "examples classes"], *, temperature: float = 1.0
) -> Float[np.ndarray, "examples classes"]:
    """Returns the softmax of logits / temperature, in float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def negative_log_likelihood(
    logits: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
    *,
    temperature: float = 1.0,
) -> float:
    """Returns the mean of -log(probability of the true class), in nats."""
    scaled = np.asarray(logits, np.float64) / temperature
    top = scaled.max(axis=-1)
    log_sums = top + np.log(np.exp(scaled - top[:, None]).sum(axis=-1))
    return float(np.mean(log_sums - scaled[np.arange(len(labels)), labels]))


def fit_temperature(
    logits: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]
) -> float:
    """Returns the temperature with the least negative log-likelihood, in [0.01, 100].

    In 1 / temperature the log-likelihood is concave: Newton's method finds its one maximum, and a
    step that leaves the interval in which the slope changes its sign is replaced by a bisection.

    Args:
      logits: Logits of the examples, all finite.
      labels: Indices of the true classes.

    Raises:
      ValueError: if a logit is not finite, or there is no example.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.
    """
    if not len(labels) or not np.isfinite(logits).all():
        raise ValueError("fit_temperature needs finite logits of at least one example.")
    low, high, inverse = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE, 1.0
    if _slope_and_curvature(logits, labels, low)[0] >= 0:
        return MAX_TEMPERATURE
    if _slope_and_curvature(logits, labels, high)[0] <= 0:
        return MIN_TEMPERATURE
    for _ in range(100):
        slope, curvature = _slope_and_curvature(logits, labels, inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        following = inverse - slope / curvature if curvature > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - inverse) <= 1e-12 * inverse:
            break
        inverse = following
    return 1 / inverse


def _slope_and_curvature(
    logits: np.ndarray, labels: np.ndarray, inverse: float
) -> tuple[float, float]:
    """Returns two derivatives of the summed negative log-likelihood by 1 / temperature."""
    slope = curvature = 0.0
    for first in range(0, len(labels), _ROWS):
        part = np.asarray(logits[first : first + _ROWS], np.float64)
        true = part[np.arange(len(part)), labels[first : first + _ROWS]]
        margins = part - true[:, None]
        shares = probabilities(part, temperature=1 / inverse)
        means = np.einsum("ec,ec->e", shares, margins)
        margins -= means[:, None]
        slope += float(means.sum())
        curvature += float(np.einsum("ec,ec,ec->", shares, margins, margins))
    return slope, curvature


def reliability(
    confidences: Float[np.ndarray, " examples"],
    correct: Float[np.ndarray, " examples"],
    *,
    num_bins: int = NUM_BINS,
) -> dict[str, np.ndarray]:
    """Returns the reliability table: one entry for each of the bins of equal width.

    A bin holds its upper end and not its lower one, as in the paper; a confidence of 0 counts to
    the first. An empty bin has NaN for its means.

    Args:
      confidences: Probabilities of the predicted classes, in 0..1.
      correct: Correctness of the predictions: 1 where the predicted class is the true one, else 0.
      num_bins: Number of bins of equal width over 0..1.

    Returns:
      {"lower", "upper": ends of the bins; "count": examples in it; "confidence", "accuracy": their
      means}.

    Raises:
      ValueError: if a confidence lies outside 0..1.

    Source: Guo et al. 2017, section 2.
    """
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError("A confidence must lie in 0..1.")
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    places = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, num_bins - 1)
    counts = np.bincount(places, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        confidence, accuracy = (
            np.bincount(places, weights=values, minlength=num_bins) / counts
            for values in (confidences, correct)
        )
    return {
        "lower": edges[:-1],
        "upper": edges[1:],
        "count": counts,
        "confidence": confidence,
        "accuracy": accuracy,
    }


def expected_calibration_error(table: dict[str, np.ndarray]) -> float:
    """Returns the mean of |accuracy - confidence| over the examples of a reliability table.

    Source: Guo et al. 2017, equation 3.
    """
    gaps = np.abs(table["accuracy"] - table["confidence"])
    return float(np.nansum(gaps * table["count"]) / table["count"].sum())
