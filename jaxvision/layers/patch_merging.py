from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.linear import linear
from jaxvision.layers.norm import layer_norm


class PatchMerging(nnx.Module):
    """Makes one token of 2 x 2 by a linear map: half the rows and columns, twice the channels.

    Args:
      width: Number of channels of the input.
      norm_first: Whether to normalise the 4 joined tokens (Swin), or the result (Swin V2).
      norm_eps: Epsilon of the LayerNorm.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values: trunc-normal 0.02, no bias.

    Source: Liu et al. 2021, Swin Transformer, section 3.1; for the norm Liu et al. 2022, Swin
      Transformer V2, section 3.2.
    """

    def __init__(
        self,
        width: int,
        *,
        norm_first: bool,
        norm_eps: float,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        dtypes: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        normed = 4 * width if norm_first else 2 * width
        self.norm = layer_norm(normed, eps=norm_eps, rngs=rngs, **dtypes)
        self.reduction = linear(4 * width, 2 * width, use_bias=False, rngs=rngs, **dtypes)
        self.norm_first = norm_first

    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns new_channels"]:
        """Returns the coarser map; odd sides get a row or column of zeros at their end."""
        batch, height, width, channels = inputs.shape
        if height % 2 or width % 2:
            inputs = jnp.pad(inputs, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        rows, columns = -(-height // 2), -(-width // 2)
        tokens = inputs.reshape(batch, rows, 2, columns, 2, channels)
        tokens = tokens.transpose(0, 1, 3, 4, 2, 5)  # of each four, the upper left is first
        tokens = tokens.reshape(batch, rows, columns, 4 * channels)  # and the lower left second
        if self.norm_first:
            return self.reduction(self.norm(tokens))
        return self.norm(self.reduction(tokens))
