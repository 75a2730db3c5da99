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
    class_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, " batch"]:
    """Returns the cross-entropy of each example, in nats.

    It is computed in float32 whatever the compute dtype, because the log of a sum of exponentials
    loses what separates two good models in bfloat16; float64 logits stay float64.

    Args:
      logits: Unnormalised scores of the classes.
      labels: Indices of the true classes, or probabilities that sum to 1 over the classes.
      label_smoothing: Probability mass epsilon, spread evenly over all K classes, the true one
        included, in [0, 1).
      class_weights: Weight of each class's term, as `weight` of torch's `cross_entropy`; torch
        divides the sum over a batch by that of the weights of the labels. None: all are 1.

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
    if class_weights is not None:
        log_probs = log_probs * class_weights.astype(dtype)[None]
    return _of_true_classes(-log_probs, labels, label_smoothing)


def softmax_focal(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"] | Float[Array, "batch classes"],
    *,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    class_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, " batch"]:
    """Returns the focal loss of each example: -(1 - p)^gamma log p of the true class, in nats.

    Args:
      logits: Unnormalised scores of the classes.
      labels: Indices of the true classes, or probabilities that sum to 1 over the classes.
      gamma: Exponent that makes easy examples count less; 0: the cross-entropy.
      label_smoothing: Probability mass epsilon, spread evenly over all classes, in [0, 1).
      class_weights: Weight of each class's term, the paper's alpha; None: all are 1.

    Raises:
      InputError: if `label_smoothing` is outside [0, 1) or soft labels have another shape than
        logits.

    Source: Lin et al. 2017, Focal Loss for Dense Object Detection, eq. 4 and 5.
    """
    _check(logits, labels, label_smoothing)
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    log_probs = jax.nn.log_softmax(logits.astype(dtype), axis=-1)
    # Above 0: of 0 to a power below 1 the gradient is infinite.
    rest = jnp.maximum(-jnp.expm1(log_probs), jnp.finfo(dtype).tiny)
    terms = -(rest**gamma) * log_probs
    if class_weights is not None:
        terms = terms * class_weights.astype(dtype)[None]
    return _of_true_classes(terms, labels, label_smoothing)


def _of_true_classes(terms: jax.Array, labels: jax.Array, label_smoothing: float) -> jax.Array:
    """Returns the terms of the true classes [B] out of those of all classes [B, K]."""
    if labels.ndim == 1:
        # A look-up, not a one-hot sum: 0 x inf of an impossible class would be NaN.
        losses = jnp.take_along_axis(terms, labels[:, None], axis=-1)[:, 0]
    else:
        losses = jnp.sum(labels.astype(terms.dtype) * terms, axis=-1)
    if label_smoothing == 0.0:
        return losses
    return (1.0 - label_smoothing) * losses + label_smoothing * jnp.mean(terms, axis=-1)


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
    logits = logits.astype(dtype)
    targets = _each_class(labels, logits, label_smoothing)
    if target_threshold > 0.0:
        targets = (targets > target_threshold).astype(dtype)
    return jnp.mean(jax.nn.softplus(logits) - logits * targets, axis=-1)


def sigmoid_focal(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"] | Float[Array, "batch classes"],
    *,
    gamma: float = 2.0,
    alpha: float = 0.25,
    label_smoothing: float = 0.0,
) -> Float[Array, " batch"]:
    """Returns the focal loss of each example, each class a question of its own, their mean.

    Args:
      logits: Unnormalised scores of each class against all others.
      labels: Indices of the true classes, or probabilities as mixup and cutmix make them.
      gamma: Exponent that makes easy questions count less.
      alpha: Weight of the true class, whose opposite the others have, in [0, 1]; below 0: none.
      label_smoothing: Probability mass epsilon, spread evenly over all K classes, in [0, 1).

    Raises:
      InputError: if `label_smoothing` is outside [0, 1) or soft labels have another shape than
        logits.

    Source: Lin et al. 2017, Focal Loss for Dense Object Detection; torchvision's
      `sigmoid_focal_loss`.
    """
    _check(logits, labels, label_smoothing)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    targets = _each_class(labels, logits, label_smoothing)
    return jnp.mean(sigmoid_focal_terms(logits, targets, gamma=gamma, alpha=alpha), axis=-1)


def sigmoid_focal_terms(
    logits: Float[Array, "batch classes"],
    targets: Float[Array, "batch classes"],
    *,
    gamma: float,
    alpha: float,
) -> Float[Array, "batch classes"]:
    """Returns the focal loss of each class of each example, torchvision's `sigmoid_focal_loss`.

    Args:
      logits: Unnormalised scores of each class.
      targets: Probabilities that each class is there.
      gamma: Exponent that makes easy questions count less.
      alpha: Weight of what is there, whose opposite the rest has, in [0, 1]; below 0: none.
    """
    share = jax.nn.sigmoid(logits)
    wrong = share * (1.0 - targets) + (1.0 - share) * targets
    wrong = jnp.maximum(wrong, jnp.finfo(logits.dtype).tiny)  # see softmax_focal
    terms = (jax.nn.softplus(logits) - logits * targets) * wrong**gamma
    if alpha < 0.0:
        return terms
    return terms * (alpha * targets + (1.0 - alpha) * (1.0 - targets))


def _each_class(labels: jax.Array, logits: jax.Array, label_smoothing: float) -> jax.Array:
    """Returns the smoothed probability of each class [B, K], in the dtype of the logits."""
    classes, dtype = logits.shape[-1], logits.dtype
    targets = jax.nn.one_hot(labels, classes, dtype=dtype) if labels.ndim == 1 else labels
    return targets.astype(dtype) * (1.0 - label_smoothing) + label_smoothing / classes


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
