from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.explain.attention import LayerAttention, check_same_tokens, over_the_image
from jaxvision.layers.tap import capture


def rollout(
    model: nnx.Module, images: Float[Array, "batch height width channels"]
) -> LayerAttention:
    """Returns how much each token of the last layer holds of each patch: each row sums to 1.

    A layer mixes tokens by the mean of its heads, half and half with the residual branch; the
    layers' matrices are multiplied. `seen()` of it, [batch, 1, rows, columns], is the picture. It
    knows no target: see `gradient_rollout`.

    Args:
      model: Model whose layers all attend to the same tokens (ViT, DeiT, hybrid), in evaluation.
      images: Normalised images.

    Raises:
      InputError: if the model has no attention, or its layers have other tokens.

    Source: Abnar and Zuidema 2020, Quantifying Attention Flow in Transformers, section 3.
    """
    return _rollout(model, images)


@jax.jit
def _rollout(model: Any, images: jax.Array) -> LayerAttention:
    _, found = capture(lambda: model(images), "attention")
    check_same_tokens(found, model)
    layers = [over_the_image(each, model, images) for each in found]
    product: Any = None
    for layer in layers:
        mixing = layer.weights.mean(axis=1)
        mixing = (mixing + jnp.eye(mixing.shape[-1], dtype=mixing.dtype)[None]) / 2.0
        product = mixing if product is None else mixing @ product
    return LayerAttention(product[:, None], layers[0].prefix, layers[0].grid, layers[0].source_grid)
