"""How much each class counts in a loss, where some have many more examples than others."""

import numpy as np
from jaxtyping import Float64, Int64


def balanced_weights(counts: Int64[np.ndarray, " classes"]) -> Float64[np.ndarray, " classes"]:
    """Returns weights in inverse proportion to the examples, of which the mean over them is 1.

    They are those of scikit-learn's `compute_class_weight("balanced")`.

    Args:
      counts: Examples of each class, at least 1.
    """
    return counts.sum() / (len(counts) * counts)


def effective_weights(
    counts: Int64[np.ndarray, " classes"], *, beta: float
) -> Float64[np.ndarray, " classes"]:
    """Returns weights in inverse proportion to the effective numbers of examples; they sum to K.

    Args:
      counts: Examples of each class, at least 1.
      beta: Share of the data that another example finds covered already, in [0, 1); 0: all classes
        have the same weight, near 1: as if balanced.

    Source: Cui et al. 2019, Class-Balanced Loss Based on Effective Number of Samples, eq. 2.
    """
    weights = (1.0 - beta) / (1.0 - beta ** counts.astype(np.float64))
    return weights / weights.sum() * len(counts)


def log_priors(counts: Int64[np.ndarray, " classes"]) -> Float64[np.ndarray, " classes"]:
    """Returns the logarithms of the shares of the classes.

    Args:
      counts: Examples of each class, at least 1.
    """
    return np.log(counts / counts.sum())
