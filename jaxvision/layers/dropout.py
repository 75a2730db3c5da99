"""Dropout as a function: no layer of this project keeps random state."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float


def draw_key(rngs: nnx.Rngs | None, what: str) -> jax.Array:
    """Returns a fresh key of the `dropout` stream.

    Args:
      rngs: Source of the key, as the caller handed it to the model.
      what: Name of the thing that needs randomness, for the message.

    Raises:
      ValueError: if `rngs` is None; the message says what to pass.
    """
    if rngs is None:
        raise ValueError(
            f"{what} is active when train=True, so the call needs randomness, but rngs is None: "
            "pass rngs=nnx.Rngs(dropout=key)."
        )
    return rngs.dropout()


def draw_block_key(
    rngs: nnx.Rngs | None, *rates: float, train: bool, what: str = "dropout or drop path"
) -> jax.Array | None:
    """Returns the key that a model's blocks share, see `run_blocks`; None if they drop nothing.

    Args:
      rngs: Source of the key, as the caller handed it to the model.
      *rates: Rates of everything that the blocks may drop.
      train: Whether dropping is on.
      what: Name of what needs randomness, for the message.

    Raises:
      ValueError: if a key is needed and `rngs` is None.
    """
    return draw_key(rngs, what) if train and any(rates) else None


def dropout(
    inputs: Float[Array, "*shape"], rate: float, *, train: bool, rngs: nnx.Rngs | None
) -> Float[Array, "*shape"]:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate).

    Args:
      inputs: Array of any shape.
      rate: Probability of dropping, in [0, 1).
      train: Whether dropping is on; False returns the inputs as they are.
      rngs: Source of randomness; needed only if `train` and `rate` > 0.

    Raises:
      ValueError: if randomness is needed and `rngs` is None.

    Source: Srivastava et al. 2014, Dropout, section 10 (scaled in training, not in evaluation).
    """
    if not train or rate == 0.0:
        return inputs
    return drop(inputs, rate, draw_key(rngs, "dropout"))


def drop(inputs: Float[Array, "*shape"], rate: float, key: jax.Array) -> Float[Array, "*shape"]:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate)."""
    return jnp.where(draw_kept(key, rate, inputs.shape), inputs / (1.0 - rate), 0.0)


def draw_kept(key: jax.Array, rate: float, shape: tuple[int, ...]) -> Bool[Array, "*shape"]:
    """Draws which elements a dropout keeps: each with probability 1 - `rate`.

    The backward pass of a checkpointed block keeps the mask by its name: drawing it again would
    cost more than its memory.
    """
    return checkpoint_name(jax.random.bernoulli(key, 1.0 - rate, shape), "dropout_mask")
