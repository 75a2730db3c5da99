from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvision.explain.target import input_gradients


def smooth_grad(
    model: nnx.Module,
    images: Float[Array, "batch height width channels"],
    targets: Int[Array, " batch"],
    noise: Float[Array, "copies batch height width channels"],
) -> Float[Array, "batch height width channels"]:
    """Returns the gradient of the target's logit, as a mean over noisy copies of each image.

    Args:
      model: Image model, in evaluation.
      images: Normalised images.
      targets: Class of each image.
      noise: Noise that is added, a sample for each copy; of 0.1 to 0.2 of the images' range. For
        example `0.5 * jax.random.normal(key, (50, *images.shape))`.

    Source: Smilkov et al. 2017, SmoothGrad, eq. 1.
    """
    return _smooth_grad(model, images, targets, noise)


@jax.jit
def _smooth_grad(model: Any, images: jax.Array, targets: jax.Array, noise: jax.Array) -> jax.Array:
    def add(total: jax.Array, sample: jax.Array) -> tuple[jax.Array, None]:
        return total + input_gradients(model, images + sample, targets), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(images), noise.astype(images.dtype))
    return total / len(noise)
