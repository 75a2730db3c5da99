"""The part of a captioner that writes: words in, the logits of the next word out."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxvision.layers.block_stack import Remat, build_blocks, run_blocks
from jaxvision.layers.decoder_block import DecoderBlock
from jaxvision.layers.dropout import draw_block_key
from jaxvision.layers.head import linear_head
from jaxvision.layers.initializer import trunc_normal
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.token_embed import TokenEmbed

Cache = dict[str, Any]


class TransformerDecoder(nnx.Module):
    """Embedding, blocks that look at a memory, an optional last norm, and a head.

    Initial values: linear kernels and tables trunc-normal 0.02, biases 0.

    Args:
      vocab_size: Number of words.
      width: Number of channels of a token and of the memory.
      depth: Number of blocks, which share no parameters.
      num_heads: Number of attention heads.
      hidden_width: Number of channels inside the MLPs.
      max_length: Number of positions.
      norm_first: Whether each branch starts with its norm (Pre-LN); False: the norm follows the
        addition (Post-LN).
      final_norm: Whether there is a LayerNorm before the head, which Pre-LN needs.
      position: Kind of positions: "learned" or "sinusoidal".
      activation: Activation of the MLPs.
      tie_head: Whether the head shares its kernel with the table of words, and has no bias.
      dropout_rate: Dropout rate of embeddings and residual branches, and inside the MLPs.
      attention_dropout_rate: Dropout rate of attention weights.
      norm_eps: Epsilon of every LayerNorm.
      attention: Implementation of the attention: "auto", "fused", "cudnn" or "reference"; see
        `dot_product_attention`.
      remat: Whether each block is computed again in the backward pass instead of keeping its
        activations; "offload": and what goes into each is kept in the memory of the host.
      dtype: Compute dtype; logits have the dtype of the parameters.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Source: Vaswani et al. 2017, Attention Is All You Need, figure 1.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        depth: int,
        num_heads: int,
        hidden_width: int,
        max_length: int,
        norm_first: bool,
        final_norm: bool,
        position: str,
        activation: Callable[[jax.Array], jax.Array],
        tie_head: bool,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        norm_eps: float = 1e-5,
        attention: str = "auto",
        remat: Remat = False,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        dtypes: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}

        def block(rngs: nnx.Rngs) -> DecoderBlock:
            return DecoderBlock(
                width,
                num_heads,
                hidden_width=hidden_width,
                norm_first=norm_first,
                activation=activation,
                dropout_rate=dropout_rate,
                attention_dropout_rate=attention_dropout_rate,
                norm_eps=norm_eps,
                attention=attention,
                rngs=rngs,
                **dtypes,
            )

        self.embed = TokenEmbed(
            vocab_size,
            width,
            max_length=max_length,
            position=position,
            dropout_rate=dropout_rate,
            rngs=rngs,
            **dtypes,
        )
        # A list, not a stack: one step of decoding would copy each block out of the stack.
        self.layers = build_blocks(block, depth, scan=False, rngs=rngs)
        self.norm = layer_norm(width, eps=norm_eps, rngs=rngs, **dtypes) if final_norm else None
        self.head = (
            None
            if tie_head
            else linear_head(
                width,
                vocab_size,
                kernel_init=trunc_normal(0.02),
                param_dtype=param_dtype,
                rngs=rngs,
            )
        )
        self.rates = dropout_rate, attention_dropout_rate
        self.remat: Remat = remat

    def __call__(
        self,
        tokens: Int[Array, "batch targets"],
        memory: Float[Array, "batch sources width"],
        *,
        token_mask: Bool[Array, "batch targets"] | None = None,
        memory_mask: Bool[Array, "batch sources"] | None = None,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch targets vocabulary"]:
        """Returns the logits of the word behind each token, which sees no later token.

        Args:
          tokens: Indices of words, from position 0 on.
          memory: Memory that the tokens look at.
          token_mask: Mask, False for tokens that no token may attend to. Padding behind a caption
            needs none, since nothing before it sees it.
          memory_mask: Mask, False for the parts of the memory that no token may attend to.
          train: Whether every kind of dropping is on.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.

        Raises:
          ValueError: if there are more tokens than positions, or randomness is needed and `rngs` is
            None.
        """
        hidden = self.embed(tokens, train=train, rngs=rngs)
        masks = _masks(tokens.shape[1], token_mask, memory_mask)

        def step(block, carry, rate, rngs):
            hidden, memory = carry
            return (block(hidden, memory, **masks, train=train, rngs=rngs), memory), None

        key = draw_block_key(rngs, *self.rates, train=train, what="dropout")
        (hidden, _), _ = run_blocks(
            self.layers,
            (hidden, memory),
            step,
            rates=(0.0,) * len(self.layers),
            key=key,
            remat=self.remat,
        )
        return self._logits(hidden)

    def cross_weights(
        self,
        tokens: Int[Array, "batch targets"],
        memory: Float[Array, "batch sources width"],
        *,
        token_mask: Bool[Array, "batch targets"] | None = None,
        memory_mask: Bool[Array, "batch sources"] | None = None,
    ) -> Float[Array, "layers batch heads targets sources"]:
        """Returns how much each token looks at each part of the memory: each row sums to 1.

        Args:
          tokens: Indices of words, from position 0 on.
          memory: Memory that the tokens look at.
          token_mask: Mask, False for tokens that no token may attend to.
          memory_mask: Mask, False for the parts of the memory that no token may attend to.
        """
        masks = _masks(tokens.shape[1], token_mask, memory_mask)

        def step(block, hidden, rate, rngs):
            return block.cross_weights(hidden, memory, **masks)

        rates = (0.0,) * len(self.layers)
        return run_blocks(self.layers, self.embed(tokens), step, rates=rates)[1]

    def start(
        self,
        memory: Float[Array, "batch sources width"],
        *,
        num_beams: int,
        max_length: int,
        memory_mask: Bool[Array, "batch sources"] | None = None,
    ) -> Cache:
        """Returns the cache for `step`; keys and values of the memory are computed here, once.

        Args:
          memory: Memory that the tokens look at, once for each image.
          num_beams: Number of rows that are decoded for each image.
          max_length: Number of positions that will be decoded at most.
          memory_mask: Mask, False for the parts of the memory that no token may attend to.

        Raises:
          ValueError: if `max_length` is more than the model has positions for.
        """
        self.embed.check_length(max_length)
        slots = num_beams * max_length
        return {
            "layers": tuple(block.start(memory, slots=slots) for block in self.layers),
            "memory_mask": memory_mask,
        }

    def step(
        self,
        cache: Cache,
        tokens: Int[Array, "batch rows"],
        position: Int[Array, ""],
        ancestry: Bool[Array, "batch rows positions rows"],
    ) -> tuple[Float[Array, "batch rows vocabulary"], Cache]:
        """Returns the logits of the word behind each row's token, and the cache for the next step.

        The cache is written at `position` and never reordered: `ancestry` says which row wrote what
        belongs to a row now.

        Args:
          cache: Cache of `start`, or of the step before.
          tokens: Index of each row's word at this position.
          position: Position of the tokens, from 0.
          ancestry: Mask, True at [b, k, t, j] where the token that row j wrote at position t lies
            on the path of row k, the token of this step among them.
        """
        batch, rows, positions, _ = ancestry.shape
        memory_mask = cache["memory_mask"]
        if memory_mask is not None:
            memory_mask = memory_mask[:, None, None]
        hidden = self.embed.at(tokens, position)
        layers = []
        for block, caches in zip(self.layers, cache["layers"], strict=True):
            hidden, caches = block.step(
                hidden,
                caches,
                slot=position * rows,
                mask=ancestry.reshape(batch, 1, rows, positions * rows),
                memory_mask=memory_mask,
            )
            layers.append(caches)
        return self._logits(hidden), {**cache, "layers": tuple(layers)}

    def _logits(self, hidden: jax.Array) -> jax.Array:
        if self.norm is not None:
            hidden = self.norm(hidden)
        return self.embed.attend(hidden) if self.head is None else self.head(hidden)


def _masks(
    length: int, token_mask: jax.Array | None, memory_mask: jax.Array | None
) -> dict[str, jax.Array | None]:
    """Returns the masks of a block: no token sees a later one, nor what is masked."""
    mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
    if token_mask is not None:
        mask = mask & token_mask[:, None, None]
    return {
        "mask": mask,
        "memory_mask": None if memory_mask is None else memory_mask[:, None, None],
    }
