from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.attention import MultiHeadAttention
from jaxvision.layers.initializer import trunc_normal
from jaxvision.layers.mlp import Mlp
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.over_batch import over_batch


class AttentionPool(nnx.Module):
    """One vector of all tokens: a learned query attends to them, and an MLP follows.

    Args:
      width: Number of channels of a token.
      num_heads: Number of attention heads.
      mlp_ratio: Ratio of the hidden channels of the MLP to the width.
      activation: Activation of the MLP, a plain function.
      norm_eps: Epsilon of the LayerNorm before the MLP.
      attention: Implementation of the attention; see `dot_product_attention`.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Source: Zhai et al. 2022, Scaling Vision Transformers, section 3.2.
    """

    not_decayed = frozenset({"probe"})

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        mlp_ratio: float,
        activation: Callable[[jax.Array], jax.Array],
        norm_eps: float,
        attention: str = "auto",
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        dtypes: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        draw = trunc_normal(width**-0.5)
        self.probe = nnx.Param(draw(rngs.params(), (1, 1, width), jnp.dtype(param_dtype)))
        self.attn = MultiHeadAttention(
            width, num_heads, implementation=attention, rngs=rngs, **dtypes
        )
        self.norm = layer_norm(width, eps=norm_eps, rngs=rngs, **dtypes)
        self.mlp = Mlp(width, int(width * mlp_ratio), activation=activation, rngs=rngs, **dtypes)

    def __call__(self, tokens: Float[Array, "batch tokens width"]) -> Float[Array, "batch width"]:
        """Returns the vector of each image."""
        query = over_batch(self.probe[...].astype(tokens.dtype), len(tokens))
        pooled = self.attn(query, tokens)
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]
