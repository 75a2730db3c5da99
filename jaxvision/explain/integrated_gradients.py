import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvision.explain.target import input_gradients


def integrated_gradients(
    model: nnx.Module,
    images: Float[Array, "batch height width channels"],
    targets: Int[Array, " batch"],
    *,
    baseline: float | Float[Array, "#batch #height #width channels"] = 0.0,
    steps: int = 50,
) -> Float[Array, "batch height width channels"]:
    """Returns how much each value of an image adds to the target's logit.

    The numbers of an image add up to its logit less that of the baseline, but for the error of the
    integration by the Gauss-Legendre rule.

    Args:
      model: Image model, in evaluation.
      images: Normalised images.
      targets: Class of each image.
      baseline: Image that says nothing; 0: the mean colour.
      steps: Number of points of the path from the baseline to the image.

    Source: Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks, eq. 1.
    """
    baselines = jnp.broadcast_to(jnp.asarray(baseline, images.dtype), images.shape)
    return _integrated_gradients(model, images, targets, baselines, steps)


@functools.partial(jax.jit, static_argnums=4)
def _integrated_gradients(
    model: Any, images: jax.Array, targets: jax.Array, baseline: jax.Array, steps: int
) -> jax.Array:
    points, weights = np.polynomial.legendre.leggauss(steps)
    path = jnp.asarray([(1.0 + points) / 2.0, weights / 2.0], images.dtype).T
    difference = images - baseline

    def add(total: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
        gradients = input_gradients(model, baseline + place[0] * difference, targets)
        return total + place[1] * gradients, None

    total, _ = jax.lax.scan(add, jnp.zeros_like(images), path)
    return total * difference
