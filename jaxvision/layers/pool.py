"""Pooling with torch's padding: explicit and symmetric, never SAME."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float


def max_pool(
    inputs: Float[Array, "batch height width channels"],
    *,
    kernel_size: int,
    stride: int,
    padding: int = 0,
) -> Float[Array, "batch new_height new_width channels"]:
    """Returns the maximum of each window; the border counts as minus infinity.

    Written as comparisons of shifted maps: the gradient of XLA's own reduction takes 5 times as
    long on a CPU.

    Args:
      inputs: Map that is pooled.
      kernel_size: Side of the window in pixels.
      stride: Step of the window in pixels.
      padding: Number of pixels added on each side.

    Note: of equal values the first one in the window gets the whole gradient, as in torch.
    """
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(inputs, sides, constant_values=-jnp.inf)
    height, width = ((n + 2 * padding - kernel_size) // stride + 1 for n in inputs.shape[1:3])
    rows = [slice(i, i + stride * (height - 1) + 1, stride) for i in range(kernel_size)]
    columns = [slice(j, j + stride * (width - 1) + 1, stride) for j in range(kernel_size)]
    largest = padded[:, rows[0], columns[0]]
    for row in rows:
        for column in columns:
            shifted = padded[:, row, column]
            # A NaN stays a NaN, as it should: every comparison with it is False.
            largest = jnp.where((shifted > largest) | jnp.isnan(shifted), shifted, largest)
    return largest


def avg_pool(
    inputs: Float[Array, "batch height width channels"],
    *,
    kernel_size: int,
    stride: int,
    padding: int = 0,
    count_include_pad: bool = True,
) -> Float[Array, "batch new_height new_width channels"]:
    """Returns the mean of each window.

    Args:
      inputs: Map that is pooled.
      kernel_size: Side of the window in pixels.
      stride: Step of the window in pixels.
      padding: Number of pixels of zeros added on each side.
      count_include_pad: Whether the zeros of the padding count in the mean, as by torch's default.
    """
    sides: Any = ((padding, padding), (padding, padding))  # nnx takes pairs, but says str
    return nnx.avg_pool(
        inputs,
        window_shape=(kernel_size, kernel_size),
        strides=(stride, stride),
        padding=sides,
        count_include_pad=count_include_pad,
    )


def adaptive_avg_pool(
    inputs: Float[Array, "batch height width channels"], size: int
) -> Float[Array, "batch size size channels"]:
    """Returns a map of size x size pixels: means over windows that cover a map of any size.

    Computed as two matrix products in at least float32.

    Args:
      inputs: Map that is pooled, larger or smaller than the new one.
      size: Side of the new map.

    Note: window i of a side of n pixels reaches from floor(i n / size) to ceil((i + 1) n / size),
      as in `torch.nn.AdaptiveAvgPool2d`: windows overlap where n is no multiple of size.
    """
    wide = jnp.promote_types(inputs.dtype, jnp.float32)
    rows, columns = (jnp.asarray(_windows(n, size), wide) for n in inputs.shape[1:3])
    with jax.named_scope("pooling"):  # which a count of multiply-adds leaves out
        means = jnp.einsum(
            "Rr,Cc,brcD->bRCD",
            rows,
            columns,
            inputs.astype(wide),
            precision=jax.lax.Precision.HIGHEST,
        )
    return means.astype(inputs.dtype)


@functools.cache
def _windows(pixels: int, size: int) -> Float[np.ndarray, "size pixels"]:
    """Returns the weight of each pixel in each window's mean."""
    weights = np.zeros((size, pixels))
    for i in range(size):
        start, end = i * pixels // size, -(-(i + 1) * pixels // size)
        weights[i, start:end] = 1.0 / (end - start)
    weights.flags.writeable = False  # the cache hands out the same array again
    return weights


def global_pool(
    inputs: Float[Array, "batch height width channels"],
) -> Float[Array, "batch channels"]:
    """Returns the mean over the map, summed in at least float32."""
    return jnp.mean(inputs, axis=(1, 2))
