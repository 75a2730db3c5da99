import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvision.errors import InputError
from jaxvision.explain.target import target_logits


def occlusion(
    model: nnx.Module,
    images: Float[Array, "batch height width channels"],
    targets: Int[Array, " batch"],
    *,
    window: int,
    stride: int,
    baseline: float = 0.0,
) -> Float[Array, "batch height width"]:
    """Returns how much the target's logit falls where a square hides a pixel: a mean over squares.

    Args:
      model: Image model, in evaluation.
      images: Normalised images.
      targets: Class of each image.
      window: Side of the square in pixels; squares at the border are cut.
      stride: Number of pixels from square to square, at most `window`.
      baseline: Value of the hidden pixels; 0: the mean colour.

    Raises:
      InputError: if the square is larger than the images, or squares leave gaps.

    Source: Zeiler and Fergus 2014, Visualizing and Understanding Convolutional Networks, section
      4.2.
    """
    if not 1 <= stride <= window <= min(images.shape[1:3]):
        raise InputError(
            f"Expected 1 <= stride <= window <= {min(images.shape[1:3])}, the shorter side of the"
            f" images, got a stride of {stride} and a window of {window} pixels."
        )
    return _occlusion(model, images, targets, window, stride, baseline)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _occlusion(
    model: Any,
    images: jax.Array,
    targets: jax.Array,
    window: int,
    stride: int,
    baseline: jax.Array,
) -> jax.Array:
    height, width = images.shape[1:3]
    starts = [stride * np.arange(-(-(side - window) // stride) + 1) for side in (height, width)]
    places = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 2)
    whole = target_logits(model(images), targets)

    def add(total: tuple, place: jax.Array) -> tuple[tuple, None]:
        inside = [
            (jnp.arange(side) >= start) & (jnp.arange(side) < start + window)
            for side, start in zip((height, width), place, strict=True)
        ]
        hidden = inside[0][None, :, None] & inside[1][None, None]
        occluded = jnp.where(hidden[..., None], jnp.asarray(baseline, images.dtype), images)
        fall = whole - target_logits(model(occluded), targets)
        falls, times = total
        return (falls + fall[:, None, None] * hidden, times + hidden), None

    zeros = (
        jnp.zeros((len(images), height, width), whole.dtype),
        jnp.zeros((1, height, width), whole.dtype),
    )
    (falls, times), _ = jax.lax.scan(add, zeros, jnp.asarray(places))
    return falls / times
