"""Words as vectors: a table of words, a table of positions."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvision.errors import check_choice
from jaxvision.layers.dropout import dropout
from jaxvision.layers.initializer import trunc_normal
from jaxvision.layers.over_batch import over_batch
from jaxvision.layers.position import sinusoids

POSITIONS = ("learned", "sinusoidal")


class TokenEmbed(nnx.Module):
    """The vector of each word plus that of its position.

    Initial values: both tables trunc-normal 0.02.

    Args:
      vocab_size: Number of words.
      width: Number of channels of a token; even for sinusoids.
      max_length: Number of positions.
      position: Kind of positions: "learned", or "sinusoidal" (fixed, no parameters).
      dropout_rate: Dropout rate after the sum of both vectors.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Source: Vaswani et al. 2017, Attention Is All You Need, sections 3.4 and 3.5, without the factor
      sqrt(width).
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        max_length: int,
        position: str,
        dropout_rate: float = 0.0,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        check_choice("position", position, POSITIONS)

        def table(*shape: int) -> nnx.Param:
            return nnx.Param(trunc_normal(0.02)(rngs.params(), shape, jnp.dtype(param_dtype)))

        if position == "sinusoidal":
            sinusoids(max_length, width)  # says at once that the width is odd
        self.embedding = table(vocab_size, width)
        self.pos_embed = table(1, max_length, width) if position == "learned" else None
        self.width = width
        self.max_length = max_length
        self.dropout_rate = dropout_rate
        self.dtype = dtype
        self.param_dtype = param_dtype

    def __call__(
        self,
        tokens: Int[Array, "batch targets"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch targets width"]:
        """Returns the vectors of tokens that stand at the positions 0, 1, ...

        Args:
          tokens: Indices of words.
          train: Whether the dropout is on.
          rngs: Source of randomness; needed only if `train` and the rate is > 0.

        Raises:
          ValueError: if there are more tokens than positions; the message gives both.
        """
        self.check_length(tokens.shape[1])
        positions = over_batch(self._positions()[None, : tokens.shape[1]], len(tokens))
        vectors = self._look_up(tokens) + positions
        return dropout(vectors.astype(self.dtype), self.dropout_rate, train=train, rngs=rngs)

    def at(
        self, tokens: Int[Array, "batch rows"], position: Int[Array, ""]
    ) -> Float[Array, "batch rows width"]:
        """Returns the vectors of tokens that all stand at one position, in evaluation."""
        place = jax.lax.dynamic_slice_in_dim(self._positions(), position, 1)
        return (self._look_up(tokens) + place[None]).astype(self.dtype)

    def attend(
        self, hidden: Float[Array, "batch targets width"]
    ) -> Float[Array, "batch targets vocabulary"]:
        """Returns the logits of a head that shares the table of words, in `param_dtype`.

        Source: Press and Wolf 2017, Using the Output Embedding to Improve Language Models.
        """
        rows = hidden.reshape(-1, self.width).astype(self.param_dtype)
        logits = jax.lax.dot_general(rows, self.embedding[...], (((1,), (1,)), ((), ())))
        return logits.reshape(*hidden.shape[:-1], -1)

    def check_length(self, length: int) -> None:
        """Raises ValueError if there are more tokens than positions."""
        if length > self.max_length:
            raise ValueError(
                f"The model has positions for {self.max_length} tokens, got {length}: shorten the "
                "captions or build it with a larger max_length."
            )

    def _look_up(self, tokens: jax.Array) -> jax.Array:
        return jnp.take(self.embedding[...], tokens, axis=0)

    def _positions(self) -> Float[Array, "max_length width"]:
        if self.pos_embed is not None:
            return self.pos_embed[0]
        return jnp.asarray(sinusoids(self.max_length, self.width), self.param_dtype)
