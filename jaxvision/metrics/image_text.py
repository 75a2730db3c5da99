"""Losses of images and texts that belong together, among all of a batch.

A jitted step whose batch is split over devices splits the table of logits by its rows: each device
gathers the vectors of all texts, and holds [images / devices, texts] of the table.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_FAR = -1e30  # a logit of what is not there; its exponential is 0, and no difference of two is NaN


def softmax_contrast(
    logits: Float[Array, "batch batch"], valid: Bool[Array, " batch"]
) -> Float[Array, ""]:
    """Returns the mean of two cross-entropies: of each image's text, and of each text's image.

    Args:
      logits: How well each text (column) goes with each image (row); its own is on the diagonal.
      valid: Mask, False for pairs that count neither for themselves nor for others.

    Source: Radford et al. 2021, figure 3.
    """
    logits = jnp.where(valid[:, None] & valid[None], logits, _FAR)
    own = jnp.diagonal(logits)
    texts, images = (jax.nn.logsumexp(logits, axis=axis) - own for axis in (1, 0))
    return _mean((texts + images) / 2, valid)


def sigmoid_contrast(
    logits: Float[Array, "batch batch"], valid: Bool[Array, " batch"]
) -> Float[Array, ""]:
    """Returns the loss of a yes or no for each image and text, summed over the texts of an image.

    Args:
      logits: How well each text (column) goes with each image (row); its own is on the diagonal.
      valid: Mask, False for pairs that count neither for themselves nor for others.

    Source: Zhai et al. 2023, algorithm 1.
    """
    signs = 2 * jnp.eye(len(logits), dtype=logits.dtype) - 1
    losses = jnp.where(valid[None], -jax.nn.log_sigmoid(signs * logits), 0.0)
    return _mean(jnp.sum(losses, axis=1), valid)


def own_text_first(
    logits: Float[Array, "batch batch"], valid: Bool[Array, " batch"]
) -> Float[Array, ""]:
    """Returns the share of images whose own text goes with them best in the batch.

    Args:
      logits: How well each text (column) goes with each image (row); its own is on the diagonal.
      valid: Mask, False for pairs that do not count.
    """
    best = jnp.argmax(jnp.where(valid[None], logits, _FAR), axis=1)
    return _mean(best == jnp.arange(len(logits)), valid)


LOSSES = {"softmax": softmax_contrast, "sigmoid": sigmoid_contrast}


def _mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.maximum(jnp.sum(valid), 1)
