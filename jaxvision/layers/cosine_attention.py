import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxvision.layers.attention import check_implementation, dot_product_attention
from jaxvision.layers.dropout import draw_key
from jaxvision.layers.linear import linear

_LARGEST_LOGIT_SCALE = math.log(100.0)


class CosineAttention(nnx.Module):
    """Attention whose scores are cosines times a learned factor for each head, at most 100.

    No token can outshout the others by its length, as happens in large models. Keys have no bias:
    it would turn all of them one way.

    Args:
      width: Number of channels of the tokens, in and out.
      num_heads: Number of heads; `width` must be a multiple of it.
      key_bias: Whether to keep a bias of the keys that is never used, as torchvision's files do.
      attention_dropout_rate: Probability of dropping an attention weight.
      implementation: Name of the implementation, see `dot_product_attention`.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values: kernels trunc-normal 0.02, biases 0, factors 10.

    Raises:
      ValueError: if `width` is not a multiple of `num_heads`.

    Source: Liu et al. 2022, Swin Transformer V2, eq. 2.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        key_bias: bool = False,
        attention_dropout_rate: float = 0.0,
        implementation: str = "auto",
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        if width % num_heads:
            raise ValueError(f"width {width} must be a multiple of num_heads {num_heads}.")
        check_implementation(implementation)

        make = functools.partial(linear, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.query = make(width, width)
        self.key = make(width, width, use_bias=key_bias)
        self.value = make(width, width)
        self.out = make(width, width)
        self.logit_scale = nnx.Param(jnp.full((num_heads,), math.log(10.0), param_dtype))
        self.num_heads = num_heads
        self.attention_dropout_rate = attention_dropout_rate
        self.implementation = implementation
        self.dtype = dtype

    def __call__(
        self,
        tokens: Float[Array, "batch tokens *groups width"],
        *,
        bias: Float[Array, "#batch #heads #tokens #tokens"] | None = None,
        mask: Bool[Array, "#batch #heads #tokens #tokens"] | None = None,
        num_sources: int | None = None,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch tokens *groups width"]:
        """Returns the new tokens.

        Args:
          tokens: Tokens that queries, keys and values come from. Groups attend to themselves alone,
            as heads do: bias and mask number the heads group by group.
          bias: Numbers added to the scores.
          mask: Mask, True where a token may attend.
          num_sources: Number of sources that count: what follows them is padding. None: all.
          train: Whether the dropout is on.
          rngs: Source of randomness; needed only if `train` and the rate is > 0.

        Raises:
          ValueError: if randomness is needed and `rngs` is None.
        """
        batch, count, *groups, width = tokens.shape
        split = (batch, count, math.prod(groups) * self.num_heads, width // self.num_heads)
        keys = self.key.product(tokens)  # without the bias that may be there
        factor = jnp.exp(jnp.minimum(self.logit_scale[...], _LARGEST_LOGIT_SCALE))
        # `dot_product_attention` divides by the root of head_dim, cosines do not.
        factor = jnp.tile(factor, math.prod(groups)).reshape(1, 1, -1, 1) * math.sqrt(split[-1])
        query = _unit(self.query(tokens).reshape(split)) * factor
        drops = train and self.attention_dropout_rate > 0.0
        attended = dot_product_attention(
            query.astype(self.dtype),
            _unit(keys.reshape(split)).astype(self.dtype),
            self.value(tokens).reshape(split),
            bias=bias,
            mask=mask,
            num_sources=num_sources,
            implementation=self.implementation,
            dropout_rate=self.attention_dropout_rate,
            dropout_key=draw_key(rngs, "attention dropout") if drops else None,
        )
        return self.out(attended.reshape(tokens.shape))


def _unit(vectors: Float[Array, "*shape size"]) -> Float[Array, "*shape size"]:
    """Returns the vectors scaled to length 1, in at least float32; a zero stays zero.

    The keys of padding are zeros: a plain division would give their gradients 0 / 0.
    """
    wide = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    squared = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
    long_enough = squared > 1e-24
    return jnp.where(long_enough, wide * jax.lax.rsqrt(jnp.where(long_enough, squared, 1.0)), 0.0)
