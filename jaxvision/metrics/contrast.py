"""How well each image finds itself among others: the loss of contrast, and signs of collapse."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def info_nce(
    queries: Float[Array, "batch width"],
    keys: Float[Array, "batch width"],
    *,
    temperature: float,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Returns the loss of each query against all keys, in nats, and whether it finds its own key.

    Row i of both belongs to one image. Over a batch that is sharded, all keys of all devices count.

    Args:
      queries: Outputs of any length for one view of each image.
      keys: Outputs of any length for another view of each image.
      temperature: Temperature that the cosines are divided by.

    Source: van den Oord et al. 2018, Representation Learning with Contrastive Predictive Coding,
      eq. 4.
    """
    logits = jnp.dot(unit(queries), unit(keys).T, precision="highest") / temperature
    own = jnp.arange(len(logits))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, own)
    return losses, (jnp.argmax(logits, axis=-1) == own).astype(losses.dtype)


def unit(outputs: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
    """Returns the rows at length 1; as torch's `normalize`, with a smallest length of 1e-12."""
    square = jnp.sum(jnp.square(outputs), axis=-1, keepdims=True)
    # The root is not taken of less, where its gradient would not be finite.
    return outputs * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def spread(outputs: Float[Array, "batch width"]) -> Float[Array, ""]:
    """Returns the deviation of the normalised outputs over a batch, times the root of the width.

    It is 1 where they go in all directions, and 0 where all are the same: collapsed.

    Source: Chen and He 2021, Exploring Simple Siamese Representation Learning, section 4.1.
    """
    return jnp.mean(jnp.std(unit(outputs), axis=0)) * outputs.shape[-1] ** 0.5
