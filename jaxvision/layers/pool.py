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

    Args:
      inputs: a map.
      window: side of the window in pixels.
      stride: step of the window in pixels.
      padding: pixels added on each side.
    """
    return nnx.max_pool(
        inputs,
        window_shape=(window, window),
        strides=(stride, stride),
        padding=_sides(padding),
    )


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
    return nnx.avg_pool(
        inputs,
        window_shape=(window, window),
        strides=(stride, stride),
        padding=_sides(padding),
        count_include_pad=count_include_pad,
    )


def global_pool(
    inputs: Float[Array, "batch height width channels"],
) -> Float[Array, "batch channels"]:
    """Returns the mean over the map, summed in at least float32."""
    return jnp.mean(inputs, axis=(1, 2))


def _sides(padding: int) -> Any:  # Any: nnx takes pairs, but says str
    return ((padding, padding), (padding, padding))
