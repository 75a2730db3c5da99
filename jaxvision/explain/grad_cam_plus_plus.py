import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvision.explain.stages import stage_and_gradient


def grad_cam_plus_plus(
    model: nnx.Module,
    images: Float[Array, "batch height width channels"],
    targets: Int[Array, " batch"],
    *,
    stage: int = -1,
) -> Float[Array, "batch rows columns"]:
    """Returns where a stage's map speaks for the target, at least 0; finds several objects better.

    Args:
      model: Image model, in evaluation.
      images: Normalised images.
      targets: Class of each image.
      stage: Index of the stage, see `feature_maps`; negative: from the end.

    Raises:
      InputError: if there is no such stage.

    Source: Chattopadhay et al. 2018, Grad-CAM++, eq. 19; 1e-6 is pytorch-grad-cam's.
    """
    return _grad_cam_plus_plus(model, images, targets, stage)


@functools.partial(jax.jit, static_argnums=3)
def _grad_cam_plus_plus(model: Any, images: jax.Array, targets: jax.Array, stage: int) -> jax.Array:
    maps, gradients = stage_and_gradient(model, images, targets, stage)
    squares = gradients**2
    sums = maps.sum(axis=(1, 2), keepdims=True)
    shares = squares / (2.0 * squares + sums * squares * gradients + 1e-6)
    shares = jnp.where(gradients != 0.0, shares, 0.0)
    weights = (jnp.maximum(gradients, 0.0) * shares).sum(axis=(1, 2), keepdims=True)
    return jnp.maximum((weights * maps).sum(axis=-1), 0.0)
