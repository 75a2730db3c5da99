from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvision.explain.attention import LayerAttention, weights_and_gradients


def gradient_rollout(
    model: nnx.Module,
    images: Float[Array, "batch height width channels"],
    targets: Int[Array, " batch"],
) -> LayerAttention:
    """Returns how relevant each patch is to each token of the last layer, for the target.

    A layer adds to the relevance R, at first the identity, A R, where A is the mean over heads of
    its weights times their gradients, without what is negative. `seen()` of it, [batch, 1, rows,
    columns], is the picture.

    Args:
      model: Model whose layers all attend to the same tokens (ViT, DeiT, hybrid), in evaluation.
      images: Normalised images.
      targets: Class of each image.

    Raises:
      InputError: if the model has no attention, or its layers have other tokens.

    Source: Chefer et al. 2021, Generic Attention-model Explainability, eq. 5 and 6.
    """
    return _gradient_rollout(model, images, targets)


@jax.jit
def _gradient_rollout(model: Any, images: jax.Array, targets: jax.Array) -> LayerAttention:
    layers, gradients = weights_and_gradients(model, images, targets)
    relevance: Any = None
    for layer, gradient in zip(layers, gradients, strict=True):
        relevant = jnp.maximum(layer.weights * gradient, 0.0).mean(axis=1)
        if relevance is None:
            relevance = jnp.eye(relevant.shape[-1], dtype=relevant.dtype)[None]
        relevance = relevance + relevant @ relevance
    first = layers[0]
    return LayerAttention(relevance[:, None], first.prefix, first.grid, first.source_grid)
