"""Fewer keys and values: what lets attention run over the fine maps of a pyramid."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.conv import Conv, kaiming_fan_out
from jaxvision.layers.mlp import gelu
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.patch import PatchEmbed, whole_patches
from jaxvision.layers.pool import adaptive_avg_pool


class SpatialReduction(nnx.Module):
    """Makes one token of each patch of a map, by a linear map and a norm.

    Attention then compares every token with 1 / ratio^2 as many.

    Args:
      width: Number of channels of the map and of the tokens.
      ratio: Side of a patch in pixels of the map.
      norm_eps: Epsilon of the LayerNorm.
      kernel_init: Initialiser of the linear map; its bias starts at 0.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Source: Wang et al. 2021, Pyramid Vision Transformer, eq. 3.
    """

    def __init__(
        self,
        width: int,
        ratio: int,
        *,
        norm_eps: float,
        kernel_init: jax.nn.initializers.Initializer = kaiming_fan_out,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        dtypes: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        self.proj = PatchEmbed(
            width, width, patch_size=ratio, kernel_init=kernel_init, rngs=rngs, **dtypes
        )
        self.norm = layer_norm(width, eps=norm_eps, rngs=rngs, **dtypes)
        self.ratio = ratio

    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch tokens channels"]:
        """Returns the tokens; pixels at the end that fill no patch are left out, as in torch.

        Raises:
          ValueError: if the map is smaller than a patch.
        """
        reduced = self.norm(self.proj(whole_patches(inputs, self.ratio)))
        return jax.lax.collapse(reduced, 1, 3)


class PooledReduction(nnx.Module):
    """Makes 7 x 7 tokens of a map of any size, by averaging, a linear map, a norm and a GELU.

    The cost of attention then grows linearly with the number of pixels.

    Args:
      width: Number of channels of the map and of the tokens.
      norm_eps: Epsilon of the LayerNorm.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Source: Wang et al. 2022, PVT v2, section 3.2 "Linear Spatial Reduction Attention".
    """

    def __init__(
        self, width: int, *, norm_eps: float, dtype: str, param_dtype: str, rngs: nnx.Rngs
    ):
        dtypes: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        self.proj = Conv(width, width, 1, use_bias=True, rngs=rngs, **dtypes)
        self.norm = layer_norm(width, eps=norm_eps, rngs=rngs, **dtypes)

    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch tokens channels"]:
        """Returns 49 tokens."""
        reduced = gelu(self.norm(self.proj(adaptive_avg_pool(inputs, 7))))
        return jax.lax.collapse(reduced, 1, 3)
