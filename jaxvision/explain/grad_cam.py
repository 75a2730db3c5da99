import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvision.explain.stages import stage_and_gradient


def grad_cam(
    model: nnx.Module,
    images: Float[Array, "batch height width channels"],
    targets: Int[Array, " batch"],
    *,
    stage: int = -1,
) -> Float[Array, "batch rows columns"]:
    """Returns where a stage's map speaks for the target, at least 0.

    Args:
      model: Image model, in evaluation.
      images: Normalised images.
      targets: Class of each image.
      stage: Index of the stage, see `feature_maps`; negative: from the end.

    Raises:
      InputError: if there is no such stage.

    Source: Selvaraju et al. 2017, Grad-CAM, eq. 1 and 2.
    """
    return _grad_cam(model, images, targets, stage)


@functools.partial(jax.jit, static_argnums=3)
def _grad_cam(model: Any, images: jax.Array, targets: jax.Array, stage: int) -> jax.Array:
    maps, gradients = stage_and_gradient(model, images, targets, stage)
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    return jnp.maximum((weights * maps).sum(axis=-1), 0.0)
