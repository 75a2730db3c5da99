"""Does a map know what matters? Take away, or bring, the pixels it names first, and look."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvision.explain.resize import to_image_size


def deletion_curve(
    model: nnx.Module,
    images: Float[Array, "batch height width channels"],
    maps: Float[Array, "batch rows columns"],
    targets: Int[Array, " batch"],
    *,
    baseline: float | Float[Array, "#batch #height #width channels"] = 0.0,
    steps: int = 20,
) -> Float[Array, "batch points"]:
    """Returns the target's probability while the pixels that a map names first are taken away.

    The first of the steps + 1 points is the image, the last the baseline. A good map lets the curve
    fall at once: the smaller its mean, the better.

    Args:
      model: Image model, in evaluation.
      images: Normalised images.
      maps: Maps of what matters, resized to the images.
      targets: Class of each image.
      baseline: Values instead of those that are taken away; 0: the mean colour.
      steps: Number of steps.

    Source: Petsiuk et al. 2018, RISE, section 4.2.
    """
    baselines = jnp.broadcast_to(jnp.asarray(baseline, images.dtype), images.shape)
    return _curve(model, images, baselines, maps, targets, steps)


def insertion_curve(
    model: nnx.Module,
    images: Float[Array, "batch height width channels"],
    maps: Float[Array, "batch rows columns"],
    targets: Int[Array, " batch"],
    *,
    baseline: float | Float[Array, "#batch #height #width channels"] = 0.0,
    steps: int = 20,
) -> Float[Array, "batch points"]:
    """Returns the target's probability while the pixels that a map names first are brought.

    The first of the steps + 1 points is the baseline, the last the image: the larger the mean, the
    better. The arguments are those of `deletion_curve`.
    """
    baselines = jnp.broadcast_to(jnp.asarray(baseline, images.dtype), images.shape)
    return _curve(model, baselines, images, maps, targets, steps)


@functools.partial(jax.jit, static_argnums=5)
def _curve(
    model: Any,
    before: jax.Array,
    after: jax.Array,
    maps: jax.Array,
    targets: jax.Array,
    steps: int,
) -> jax.Array:
    """Returns the probability of the target from `before` to `after`, pixel by pixel."""
    batch, height, width = before.shape[:3]
    flat = to_image_size(maps, (height, width)).reshape(batch, -1)
    ranks = jnp.argsort(jnp.argsort(-flat, axis=1), axis=1).reshape(batch, height, width, 1)

    def probability(share: jax.Array) -> jax.Array:
        images = jnp.where(ranks < share * height * width, after, before)
        chances = jax.nn.softmax(model(images), axis=-1)
        return jnp.take_along_axis(chances, targets[:, None], axis=1)[:, 0]

    return jax.lax.map(probability, jnp.linspace(0.0, 1.0, steps + 1)).T
