import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxvision.layers.attention import MultiHeadAttention
from jaxvision.layers.drop_path import drop_path
from jaxvision.layers.dropout import dropout
from jaxvision.layers.layer_scale import LayerScale
from jaxvision.layers.mlp import GatedMlp, Mlp, gelu
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.tap import tap


class EncoderBlock(nnx.Module):
    """One pre-norm encoder block: attention, then MLP, each on a residual branch.

    Args:
      width: Number of channels of a token.
      num_heads: Number of attention heads.
      mlp_ratio: Number of hidden channels of the MLP / width.
      gated_mlp: Whether the MLP is a `GatedMlp`.
      activation: Activation of a plain MLP, a function; that of a gated one is SiLU.
      dropout_rate: Dropout rate after the attention's projection and both layers of the MLP.
      attention_dropout_rate: Dropout rate of attention weights.
      layer_scale_init: Starting value of LayerScale; None: no LayerScale.
      norm_eps: Epsilon of both LayerNorms.
      attention: Implementation of the attention: "auto", "fused", "cudnn" or "reference"; see
        `dot_product_attention`.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Source: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, eq. 2 and 3.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        mlp_ratio: float,
        gated_mlp: bool = False,
        activation: Callable[[jax.Array], jax.Array] = gelu,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        layer_scale_init: float | None = None,
        norm_eps: float,
        attention: str = "auto",
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        dtypes: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        self.norm1 = layer_norm(width, eps=norm_eps, rngs=rngs, **dtypes)
        self.attn = MultiHeadAttention(
            width,
            num_heads,
            attention_dropout_rate=attention_dropout_rate,
            implementation=attention,
            rngs=rngs,
            **dtypes,
        )
        self.norm2 = layer_norm(width, eps=norm_eps, rngs=rngs, **dtypes)
        mlp: Any = GatedMlp if gated_mlp else functools.partial(Mlp, activation=activation)
        hidden = int(width * mlp_ratio)
        self.mlp = mlp(width, hidden, dropout_rate=dropout_rate, rngs=rngs, **dtypes)
        init = layer_scale_init
        self.layer_scale1 = None if init is None else LayerScale(width, init=init, **dtypes)
        self.layer_scale2 = None if init is None else LayerScale(width, init=init, **dtypes)
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        tokens: Float[Array, "batch tokens width"],
        *,
        mask: Bool[Array, "#batch #heads tokens tokens"] | None = None,
        num_tokens: int | None = None,
        drop_path_rate: float | jax.Array = 0.0,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Returns the new tokens.

        Args:
          tokens: Tokens of the block before.
          mask: Mask, True where a token may attend.
          num_tokens: Number of tokens that count: what follows them is padding. None: all.
          drop_path_rate: Probability of dropping each branch; an argument, because a scan over
            blocks brings each block its own.
          train: Whether every kind of dropping is on.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.

        Raises:
          ValueError: if randomness is needed and `rngs` is None.
        """
        normed = tap("tokens", self.norm1(tokens))
        branch = self.attn(normed, mask=mask, num_sources=num_tokens, train=train, rngs=rngs)
        branch = dropout(branch, self.dropout_rate, train=train, rngs=rngs)
        if self.layer_scale1 is not None:
            branch = self.layer_scale1(branch)
        tokens = tokens + drop_path(branch, drop_path_rate, train=train, rngs=rngs)
        branch = self.mlp(self.norm2(tokens), train=train, rngs=rngs)
        if self.layer_scale2 is not None:
            branch = self.layer_scale2(branch)
        return tap("block", tokens + drop_path(branch, drop_path_rate, train=train, rngs=rngs))
