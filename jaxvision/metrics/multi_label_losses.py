"""Losses of several labels an image: one value per class of each example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_LEAST = 1e-8  # probability whose logarithm is taken at least, timm's eps


def smoothed_targets(
    labels: Float[Array, "batch classes"], label_smoothing: float
) -> Float[Array, "batch classes"]:
    """Returns labels moved towards 0.5, each a question of its own, as timm smooths several labels.

    Args:
      labels: Probabilities that each class is there.
      label_smoothing: Share of the way to 0.5, in [0, 1).
    """
    return labels * (1.0 - label_smoothing) + 0.5 * label_smoothing


def binary_terms(
    logits: Float[Array, "batch classes"],
    targets: Float[Array, "batch classes"],
    *,
    positive_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, "batch classes"]:
    """Returns the binary cross-entropy of each class, torch's `BCEWithLogitsLoss`, in nats.

    Args:
      logits: Unnormalised scores of each class.
      targets: Probabilities that each class is there.
      positive_weights: Weight of each class where it is there, torch's `pos_weight`; None: 1.
    """
    positive = targets * jax.nn.softplus(-logits)
    if positive_weights is not None:
        positive = positive * positive_weights.astype(logits.dtype)[None]
    return positive + (1.0 - targets) * jax.nn.softplus(logits)


def asymmetric_terms(
    logits: Float[Array, "batch classes"],
    targets: Float[Array, "batch classes"],
    *,
    gamma_negative: float,
    gamma_positive: float,
    clip: float,
    positive_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, "batch classes"]:
    """Returns the asymmetric loss of each class, timm's `AsymmetricLossMultiLabel`, in nats.

    Args:
      logits: Unnormalised scores of each class.
      targets: Probabilities that each class is there.
      gamma_negative: Exponent that makes easy absent classes count less.
      gamma_positive: Exponent that makes easy present classes count less.
      clip: Probability below which an absent class counts nothing, in [0, 1).
      positive_weights: Weight of each class where it is there; None: 1.

    Source: Ben-Baruch et al. 2021, Asymmetric Loss For Multi-Label Classification, eq. 4 and 7.
    """
    there = jax.nn.sigmoid(logits)
    absent = jnp.minimum(1.0 - there + clip, 1.0) if clip > 0.0 else 1.0 - there
    positive = targets * jnp.log(jnp.maximum(there, _LEAST))
    if positive_weights is not None:
        positive = positive * positive_weights.astype(logits.dtype)[None]
    terms = positive + (1.0 - targets) * jnp.log(jnp.maximum(absent, _LEAST))
    wrong = 1.0 - (there * targets + absent * (1.0 - targets))
    # Above 0: of 0 to a power below 1 the gradient is infinite.
    wrong = jnp.maximum(wrong, jnp.finfo(logits.dtype).tiny)
    gamma = gamma_positive * targets + gamma_negative * (1.0 - targets)
    return -terms * wrong**gamma
