"""What decoding needs of a model, and what it gives back."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Bool, Float, Int32


@runtime_checkable
class Decoder(Protocol):
    """A model that gives the logits of one more token at a time.

    B images have K rows (beams or samples) each, of T tokens. The cache of the self-attention has
    a slot for what each row wrote at each position; it is written in place and never reordered.
    Beams that change places change the ancestry instead, which is a thousandth of the size.
    """

    def start(self, memory: Any, *, num_beams: int, max_length: int) -> Any:
        """Returns the cache before the first token.

        Args:
          memory: Pytree of arrays [B, ...], one entry for each image: what the tokens attend to.
          num_beams: Number of beams, K.
          max_length: Greatest number of tokens of a row, T.
        """
        ...

    def step(
        self,
        cache: Any,
        tokens: Int32[Array, "batch beams"],
        position: Int32[Array, ""],
        ancestry: Bool[Array, "batch beams length beams"],
    ) -> tuple[Float[Array, "batch beams vocabulary"], Any]:
        """Returns the logits after the tokens at `position`, and the cache that holds them.

        Args:
          cache: Cache of `start` or of the step before.
          tokens: Token of each row at `position`.
          position: Position of the tokens, from 0.
          ancestry: Mask of the rows' paths: [b, k, t, j] is True where the token that row j wrote
            at position t lies on the path of row k: what row k attends to, this position included.
        """
        ...


class Decoded(NamedTuple):
    """Captions, the best first.

    Attributes:
      tokens: Tokens of each caption, <START> w1 .. wn <END> <PAD> .., as in a batch; a caption that
        reached the greatest length may lack its <END>.
      scores: Log-probability of each caption over the length's norm (`DecodeSettings.norms`). That
        of a beam is of the distribution that penalties and bans have changed, as in Hugging Face,
        that of greedy decoding and of samples is the model's own. -inf: fewer captions were
        possible.
      lengths: Number of tokens of each caption, <START> and <END> included.
    """

    tokens: Int32[Array, "batch captions length"]
    scores: Float[Array, "batch captions"]
    lengths: Int32[Array, "batch captions"]


def batch_size(memory: Any) -> int:
    """Returns the number of images of a memory."""
    return jax.tree.leaves(memory)[0].shape[0]
