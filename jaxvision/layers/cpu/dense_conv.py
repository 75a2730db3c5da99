"""The gradient of a dense kernel: on a CPU, XLA's takes up to three times as long as this one."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Sides = tuple[tuple[int, int], tuple[int, int]]

_FEWEST_PIXELS = 196  # of an output map; below, XLA's gradient is as fast
_BLOCK = 2**21  # numbers of a block's windows: 8 MB, about a CPU's cache


def pays(shape: tuple[int, ...]) -> bool:
    """Returns whether this gradient is the faster one, by the shape of the output."""
    return shape[1] * shape[2] >= _FEWEST_PIXELS


def kernel_gradient(
    inputs: Float[Array, "batch height width channels"],
    grad: Float[Array, "batch new_height new_width features"],
    *,
    size: int,
    stride: int,
    sides: Sides,
) -> Float[Array, "size size channels features"]:
    """Gathers the windows of some rows of all images, times the gradient there; sums the blocks.

    Sums in at least float32.

    Args:
      inputs: Map that was convolved.
      grad: Gradient of the output.
      size: Side of the kernel in pixels.
      stride: Step of the kernel in pixels.
      sides: Pixels of zeros that were added, ((top, bottom), (left, right)).
    """
    channels = inputs.shape[-1]
    height, width, features = grad.shape[1:]
    padded = jnp.pad(inputs, ((0, 0), *sides, (0, 0)))
    windows = grad.size // features * size * size * channels
    divisors = (n for n in range(1, height) if height % n == 0 and windows // n <= _BLOCK)
    blocks = next(divisors, height)
    rows, last = height // blocks, (width - 1) * stride
    wide = jnp.promote_types(grad.dtype, jnp.float32)

    def add_block(block: jax.Array, total: jax.Array) -> jax.Array:
        lines = (rows - 1) * stride + size
        part = jax.lax.dynamic_slice_in_dim(padded, block * rows * stride, lines, axis=1)
        taps = [
            part[:, i : i + (rows - 1) * stride + 1 : stride, j : j + last + 1 : stride]
            for i in range(size)
            for j in range(size)
        ]
        columns = jnp.concatenate(taps, axis=-1).reshape(-1, size * size * channels)
        grad_part = jax.lax.dynamic_slice_in_dim(grad, block * rows, rows, axis=1)
        grad_part = grad_part.reshape(-1, features)
        return total + jnp.matmul(columns.T, grad_part, preferred_element_type=wide)

    zeros = jnp.zeros((size * size * channels, features), wide)
    total = jax.lax.fori_loop(0, blocks, add_block, zeros)
    return total.reshape(size, size, channels, features).astype(grad.dtype)
