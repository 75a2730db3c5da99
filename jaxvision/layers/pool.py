"""Pooling with torch's padding: explicit and symmetric, never SAME."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def max_pool(
    inputs: Float[Array, "batch height width channels"],
    *,
    window: int,
    stride: int,
    padding: int = 0,
) -> Float[Array, "batch new_height new_width channels"]:
    """Returns the maximum of each window; the border counts as minus infinity.

    Written as comparisons of shifted maps: the gradient of XLA's own reduction takes 5 times as
    long on a CPU.

    Args:
      inputs: a map.
      window: side of the window in pixels.
      stride: step of the window in pixels.
      padding: pixels added on each side.

    Note: of equal values the first one in the window gets the whole gradient, as in torch.
    """
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(inputs, sides, constant_values=-jnp.inf)
    height, width = ((n + 2 * padding - window) // stride + 1 for n in inputs.shape[1:3])
    rows = [slice(i, i + stride * (height - 1) + 1, stride) for i in range(window)]
    columns = [slice(j, j + stride * (width - 1) + 1, stride) for j in range(window)]
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
    window: int,
    stride: int,
    padding: int = 0,
    count_include_pad: bool = True,
) -> Float[Array, "batch new_height new_width channels"]:
    """Returns the mean of each window.

    Args:
      inputs: a map.
      window: side of the window in pixels.
      stride: step of the window in pixels.
      padding: pixels of zeros added on each side.
      count_include_pad: count those zeros in the mean, torch's default.
    """
    sides: Any = ((padding, padding), (padding, padding))  # nnx takes pairs, but says str
    return nnx.avg_pool(
        inputs,
        window_shape=(window, window),
        strides=(stride, stride),
        padding=sides,
        count_include_pad=count_include_pad,
    )


def global_pool(
    inputs: Float[Array, "batch height width channels"],
) -> Float[Array, "batch channels"]:
    """Returns the mean over the map, summed in at least float32."""
    return jnp.mean(inputs, axis=(1, 2))
