from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.drop_path import drop_path
from jaxvision.layers.dropout import dropout
from jaxvision.layers.mlp import Mlp
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.window import (
    Sides,
    attend_in_windows,
    attend_one_by_one,
    attend_side_by_side,
)
from jaxvision.target_platform import target_platform


class WindowBlock(nnx.Module):
    """One block of a Swin Transformer: attention inside windows, then MLP, on residual branches.

    Args:
      width: Number of channels of a token.
      attn: Attention inside a window, called with (windows, bias=, mask=, train=, rngs=).
      position_bias: Module of the bias that the attention adds to its scores; has the `window`.
      norm_first: Whether to normalise the tokens that go into a branch (Swin), or what comes out of
        it (Swin V2), with norms that start at 0 and so with a block that starts as the identity.
      pad_first: Whether to pad a map to whole windows before the shift or after it.
      mlp_ratio: Ratio of the hidden channels of the MLP to the width.
      dropout_rate: Dropout rate after the attention's projection and both layers of the MLP.
      norm_eps: Epsilon of both LayerNorms.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Source: Liu et al. 2021, Swin Transformer, eq. 3; Liu et al. 2022, Swin Transformer V2, section
      3.2 and figure 1.
    """

    def __init__(
        self,
        width: int,
        *,
        attn: Any,
        position_bias: Any,
        norm_first: bool,
        pad_first: bool,
        mlp_ratio: float,
        dropout_rate: float,
        norm_eps: float,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        dtypes: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        self.norm1 = layer_norm(width, eps=norm_eps, rngs=rngs, **dtypes)
        self.attn = attn
        self.position_bias = position_bias
        self.norm2 = layer_norm(width, eps=norm_eps, rngs=rngs, **dtypes)
        hidden = int(width * mlp_ratio)
        self.mlp = Mlp(width, hidden, dropout_rate=dropout_rate, rngs=rngs, **dtypes)
        if not norm_first:
            self.norm1.scale = nnx.Param(jnp.zeros((width,), param_dtype))
            self.norm2.scale = nnx.Param(jnp.zeros((width,), param_dtype))
        self.norm_first = norm_first
        self.pad_first = pad_first
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        tokens: Float[Array, "batch rows columns width"],
        *,
        shift: Sides,
        drop_path_rate: float | jax.Array = 0.0,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch rows columns width"]:
        """Returns the new tokens.

        Args:
          tokens: Tokens of the block before.
          shift: Rows and columns that the windows are moved by.
          drop_path_rate: Probability of dropping each branch; an argument, because a scan over
            blocks brings each block its own.
          train: Whether every kind of dropping is on.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.

        Raises:
          ValueError: if randomness is needed and `rngs` is None.
        """
        form = attend_side_by_side if target_platform() == "gpu" else attend_one_by_one

        def attend(windows, mask):
            bias = self.position_bias()
            return form(self.attn, windows, bias=bias, mask=mask, train=train, rngs=rngs)

        branch = self.norm1(tokens) if self.norm_first else tokens
        branch = attend_in_windows(
            branch,
            attend,
            window=self.position_bias.window,
            shift=shift,
            pad_first=self.pad_first,
        )
        branch = dropout(branch, self.dropout_rate, train=train, rngs=rngs)
        branch = branch if self.norm_first else self.norm1(branch)
        tokens = tokens + drop_path(branch, drop_path_rate, train=train, rngs=rngs)

        branch = self.norm2(tokens) if self.norm_first else tokens
        rows = jax.lax.collapse(branch, 1, 3)
        branch = self.mlp(rows, train=train, rngs=rngs).reshape(tokens.shape)
        branch = branch if self.norm_first else self.norm2(branch)
        return tokens + drop_path(branch, drop_path_rate, train=train, rngs=rngs)
