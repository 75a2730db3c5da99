"""One array for every example of a batch, such as positions, with a gradient that a GPU likes."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.layers.linear_call import linear_call
from jaxvision.target_platform import target_platform

_FEWEST_ROWS = 8  # of a product on tensor cores


def over_batch(array: Float[Array, "1 tokens width"], batch: int) -> Float[Array, "_ tokens width"]:
    """Returns the array repeated for each example.

    Its gradient, a sum over the batch, asks XLA for gradients of the tokens whose batch comes last,
    which transposes the maps of the whole backward pass on a GPU. There it is computed as a product
    with ones, which takes the layout as it is.

    Args:
      array: Array without a batch.
      batch: Number of examples.
    """
    if target_platform() != "gpu":
        return jnp.broadcast_to(array, (batch, *array.shape[1:]))
    repeat = functools.partial(_repeat, batch=batch)
    return linear_call(repeat, _sum, (), (array,))[0]


def _repeat(_: tuple, arrays: tuple[jax.Array, ...], *, batch: int) -> tuple[jax.Array]:
    return (jnp.broadcast_to(arrays[0], (batch, *arrays[0].shape[1:])),)


def _sum(_: tuple, grads: tuple[jax.Array, ...]) -> tuple[jax.Array]:
    (grad,) = grads
    rows = grad.reshape(len(grad), -1)
    sums = jax.lax.dot_general(
        jnp.ones((_FEWEST_ROWS, len(grad)), grad.dtype),
        rows,
        (((1,), (0,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.promote_types(grad.dtype, jnp.float32),
    )
    return (sums[0].reshape(1, *grad.shape[1:]).astype(grad.dtype),)
