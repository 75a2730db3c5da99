"""Losses, one value per example: who averages, and over what, is the caller's decision."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxvision.errors import InputError


def softmax_cross_entropy(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"] | Float[Array, "batch classes"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, " batch"]:
    """Returns the cross-entropy of each example, in nats.

    It is computed in float32 whatever the compute dtype, because the log of a sum of exponentials
    loses what separates two good models in bfloat16; float64 logits stay float64.

    Args:
      logits: Unnormalised scores of the classes.
      labels: Indices of the true classes, or probabilities that sum to 1 over the classes.
      label_smoothing: Probability mass epsilon, spread evenly over all K classes, the true one
        included, in [0, 1).

    Raises:
      InputError: if `label_smoothing` is outside [0, 1) or soft labels have another shape than
        logits.

    Note:
      This is the convention of torch and optax: epsilon / K for each class. Code that spreads
      epsilon over the K - 1 wrong classes only gets the same numbers with
      `label_smoothing = smoothing_of_all(epsilon, K)`.

    Source: Szegedy et al. 2016, Rethinking the Inception Architecture, section 7.
    """
    _check(logits, labels, label_smoothing)
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    log_probs = jax.nn.log_softmax(logits.astype(dtype), axis=-1)
    if labels.ndim == 1:
        # A look-up, not a one-hot sum: 0 x -inf of an impossible class would be NaN.
        losses = -jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
    else:
        losses = -jnp.sum(labels.astype(dtype) * log_probs, axis=-1)
    if label_smoothing == 0.0:
        return losses
    return (1.0 - label_smoothing) * losses - label_smoothing * jnp.mean(log_probs, axis=-1)


def _check(logits: jax.Array, labels: jax.Array, label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        raise InputError(f"label_smoothing must be in [0, 1), got {label_smoothing}.")
    if labels.ndim == 2 and labels.shape != logits.shape:
        raise InputError(
            f"Soft labels must have the shape of the logits {logits.shape}, got {labels.shape}; "
            "build the model with as many classes as the labels have."
        )


def smoothing_of_all(epsilon: float, num_classes: int) -> float:
    """Returns the smoothing over all K classes that equals `epsilon` over the K - 1 wrong ones.

    Spread over the wrong classes alone, the true one keeps 1 - epsilon; over all, as torch and the
    losses here do, it keeps 1 - epsilon + epsilon / K.

    Args:
      epsilon: Probability mass of the wrong classes, below (K - 1) / K, where all are equal.
      num_classes: Number of classes K, at least 2.

    Raises:
      InputError: if `epsilon` leaves the true class no more than the others have.
    """
    greatest = (num_classes - 1) / num_classes
    if not 0.0 <= epsilon < greatest:
        raise InputError(
            f"Spread over the wrong ones of {num_classes} classes, the label smoothing must be "
            f"in [0, {greatest:.6g}), got {epsilon}."
        )
    return epsilon / greatest


def binary_cross_entropy(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"] | Float[Array, "batch classes"],
    *,
    label_smoothing: float = 0.0,
    target_threshold: float = 0.0,
) -> Float[Array, " batch"]:
    """Returns the binary cross-entropy of each example, the mean over all classes, in nats.

    Each class is a question of its own, so that mixed images may be fully both. The dtype is that
    of `softmax_cross_entropy`.

    Args:
      logits: Unnormalised scores of each class against all others.
      labels: Indices of the true classes, or probabilities as mixup and cutmix make them.
      label_smoothing: Probability mass epsilon, spread evenly over all K classes, in [0, 1); comes
        before the threshold.
      target_threshold: Threshold above which labels become 1, all others 0; 0: they stay as they
        are.

    Raises:
      InputError: if `label_smoothing` is outside [0, 1) or soft labels have another shape than
        logits.

    Note:
      This is timm's `BinaryCrossEntropy`, whose soft labels are smoothed by its Mixup instead.

    Source: Beyer et al. 2020, Are we done with ImageNet?, section 5; Wightman et al. 2021, ResNet
      strikes back, section 3.1.
    """
    _check(logits, labels, label_smoothing)
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    logits, classes = logits.astype(dtype), logits.shape[-1]
    targets = jax.nn.one_hot(labels, classes, dtype=dtype) if labels.ndim == 1 else labels
    targets = targets.astype(dtype) * (1.0 - label_smoothing) + label_smoothing / classes
    if target_threshold > 0.0:
        targets = (targets > target_threshold).astype(dtype)
    return jnp.mean(jax.nn.softplus(logits) - logits * targets, axis=-1)


def token_cross_entropy(
    logits: Float[Array, "batch length vocabulary"],
    targets: Int[Array, "batch length"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, "batch length"]:
    """Returns the cross-entropy of each token, in nats; see `softmax_cross_entropy`.

    Which tokens count is the caller's decision: torch's `ignore_index` leaves out padding.

    Args:
      logits: Unnormalised scores of the tokens.
      targets: Indices of the true tokens.
      label_smoothing: Probability mass epsilon, spread evenly over the vocabulary, in [0, 1).
    """
    losses = softmax_cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), label_smoothing=label_smoothing
    )
    return losses.reshape(targets.shape)
