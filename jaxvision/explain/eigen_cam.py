import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.explain.stages import stage_map


def eigen_cam(
    model: nnx.Module,
    images: Float[Array, "batch height width channels"],
    *,
    stage: int = -1,
) -> Float[Array, "batch rows columns"]:
    """Returns the first principal component of a stage's map, at least 0: it needs no target.

    A component has no sign of its own: the end that is farther from 0 is the positive one.

    Args:
      model: Image model, in evaluation.
      images: Normalised images.
      stage: Index of the stage, see `feature_maps`; negative: from the end.

    Raises:
      InputError: if there is no such stage.

    Source: Muhammad and Yeasin 2020, Eigen-CAM; centred as in pytorch-grad-cam. The sign: Chung and
      Ying 2025, Seg-Eigen-CAM, eq. 13.
    """
    return _eigen_cam(model, images, stage)


@functools.partial(jax.jit, static_argnums=2)
def _eigen_cam(model: Any, images: jax.Array, stage: int) -> jax.Array:
    maps = stage_map(model, images, stage)
    cells = maps.reshape(len(maps), -1, maps.shape[-1])
    cells = cells.astype(jnp.promote_types(cells.dtype, jnp.float32))
    cells = cells - cells.mean(axis=1, keepdims=True)
    left, sizes, _ = jnp.linalg.svd(cells, full_matrices=False)
    component = (left[..., 0] * sizes[..., :1]).reshape(maps.shape[:3])
    low, high = (bound(component, axis=(1, 2), keepdims=True) for bound in (jnp.min, jnp.max))
    return jnp.maximum(jnp.where(-low > high, -component, component), 0.0)
