"""One block of a Transformer decoder, for all tokens at once or for one more of each row."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxvision.layers import cached_attention
from jaxvision.layers.attention import MultiHeadAttention
from jaxvision.layers.cached_attention import Cache
from jaxvision.layers.dropout import dropout
from jaxvision.layers.mlp import Mlp, gelu
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.tap import tap_facts

Branch = Callable[[jax.Array], jax.Array]


class DecoderBlock(nnx.Module):
    """Attention of the tokens to themselves, then to a memory, then an MLP, on residual branches.

    Args:
      width: Number of channels of a token and of the memory.
      num_heads: Number of heads of both attentions.
      hidden_width: Number of channels inside the MLP.
      norm_first: Whether each branch starts with its norm (Pre-LN); False: the norm follows the
        addition (Post-LN).
      activation: Activation of the MLP.
      dropout_rate: Dropout rate of each branch, and inside the MLP.
      attention_dropout_rate: Dropout rate of attention weights.
      norm_eps: Epsilon of the three LayerNorms.
      attention: Implementation of the attention: "auto", "fused", "cudnn" or "reference"; see
        `dot_product_attention`.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Note: computes what `torch.nn.TransformerDecoderLayer` does.

    Source: Vaswani et al. 2017, Attention Is All You Need, figure 1; Pre-LN: Xiong et al. 2020, On
      Layer Normalization in the Transformer Architecture, figure 1b.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        hidden_width: int,
        norm_first: bool,
        activation: Callable[[jax.Array], jax.Array] = gelu,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        norm_eps: float = 1e-5,
        attention: str = "auto",
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        dtypes: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}

        def attend() -> MultiHeadAttention:
            return MultiHeadAttention(
                width,
                num_heads,
                attention_dropout_rate=attention_dropout_rate,
                implementation=attention,
                rngs=rngs,
                **dtypes,
            )

        def norm() -> nnx.LayerNorm:
            return layer_norm(width, eps=norm_eps, rngs=rngs, **dtypes)

        self.norm1, self.self_attn = norm(), attend()
        self.norm2, self.cross_attn = norm(), attend()
        self.norm3 = norm()
        self.mlp = Mlp(
            width,
            hidden_width,
            activation=activation,
            dropout_rate=dropout_rate,
            rngs=rngs,
            **dtypes,
        )
        self.norm_first = norm_first
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        tokens: Float[Array, "batch targets width"],
        memory: Float[Array, "batch sources width"],
        *,
        mask: Bool[Array, "#batch #heads targets targets"] | None = None,
        memory_mask: Bool[Array, "#batch #heads #targets sources"] | None = None,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch targets width"]:
        """Returns the new tokens.

        Args:
          tokens: Tokens of the block before.
          memory: Memory that the tokens look at.
          mask: Mask, True where a token may attend to another.
          memory_mask: Mask, True where a token may attend to the memory.
          train: Whether every kind of dropping is on.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.

        Raises:
          ValueError: if randomness is needed and `rngs` is None.
        """
        how: dict[str, Any] = {"train": train, "rngs": rngs}

        def look(tokens: jax.Array) -> jax.Array:
            with tap_facts(looks_at="memory"):
                return self.cross_attn(tokens, memory, mask=memory_mask, **how)

        return self._run(
            tokens, lambda tokens: self.self_attn(tokens, mask=mask, **how), look, **how
        )

    def cross_weights(
        self,
        tokens: Float[Array, "batch targets width"],
        memory: Float[Array, "batch sources width"],
        *,
        mask: Bool[Array, "#batch #heads targets targets"] | None = None,
        memory_mask: Bool[Array, "#batch #heads #targets sources"] | None = None,
    ) -> tuple[Float[Array, "batch targets width"], Float[Array, "batch heads targets sources"]]:
        """Returns the new tokens in evaluation, and the weights of their attention to the memory.

        Args:
          tokens: Tokens of the block before.
          memory: Memory that the tokens look at.
          mask: Mask, True where a token may attend to another.
          memory_mask: Mask, True where a token may attend to the memory.
        """
        weights = []

        def look(tokens: jax.Array) -> jax.Array:
            weights.append(self.cross_attn.weights(tokens, memory, mask=memory_mask))
            return self.cross_attn(tokens, memory, mask=memory_mask)

        tokens = self._run(tokens, lambda tokens: self.self_attn(tokens, mask=mask), look)
        return tokens, weights[0]

    def start(self, memory: Float[Array, "batch sources width"], *, slots: int) -> dict[str, Cache]:
        """Returns the caches for `step`: the memory's, and an empty one for the tokens.

        Args:
          memory: Memory that the tokens look at.
          slots: Number of tokens of one example, over all rows and positions.
        """
        return {
            "memory": cached_attention.memory_cache(self.cross_attn, memory),
            "tokens": cached_attention.empty_cache(self.self_attn, memory, slots=slots),
        }

    def step(
        self,
        tokens: Float[Array, "batch rows width"],
        caches: dict[str, Cache],
        *,
        slot: Int[Array, ""],
        mask: Bool[Array, "batch 1 rows slots"],
        memory_mask: Bool[Array, "batch 1 1 sources"] | None = None,
    ) -> tuple[Float[Array, "batch rows width"], dict[str, Cache]]:
        """Returns the new tokens of one position, and the caches with their keys and values.

        Args:
          tokens: Tokens of the block before, one for each row.
          caches: Caches of `start`, or of the step before.
          slot: Index of the slot where the first row is written.
          mask: Mask, True where a row may attend to a slot; its own among them.
          memory_mask: Mask, True where the memory may be attended to.
        """
        written = {}

        def look_back(tokens: jax.Array) -> jax.Array:
            written["tokens"] = cached_attention.write(
                self.self_attn, caches["tokens"], tokens, slot=slot
            )
            return cached_attention.attend(self.self_attn, written["tokens"], tokens, mask=mask)

        def look(tokens: jax.Array) -> jax.Array:
            return cached_attention.attend(
                self.cross_attn, caches["memory"], tokens, mask=memory_mask
            )

        tokens = self._run(tokens, look_back, look)
        return tokens, {"memory": caches["memory"], **written}

    def _run(
        self,
        tokens: jax.Array,
        attend: Branch,
        look: Branch,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Returns the tokens after the three branches, of which the first two are given."""

        def dropped(branch: Branch) -> Branch:
            return lambda tokens: dropout(branch(tokens), self.dropout_rate, train=train, rngs=rngs)

        def residual(tokens: jax.Array, norm: Branch, branch: Branch) -> jax.Array:
            if self.norm_first:
                return tokens + branch(norm(tokens))
            return norm(tokens + branch(tokens))

        tokens = residual(tokens, self.norm1, dropped(attend))
        tokens = residual(tokens, self.norm2, dropped(look))
        # The MLP drops its outputs itself.
        return residual(tokens, self.norm3, lambda tokens: self.mlp(tokens, train=train, rngs=rngs))
