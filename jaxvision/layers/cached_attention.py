"""Attention to keys and values that were computed before: one step of decoding.

The cache of a layer is {"keys": [batch, heads, head_dim, slots], "values": [batch, heads, slots,
head_dim]}: as the matrix products want them. With keys like the values the scores of 5 rows take a
CPU four times as long.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision.layers.attention import MultiHeadAttention

Cache = dict[str, jax.Array]


def memory_cache(
    attention: MultiHeadAttention, memory: Float[Array, "batch sources memory_width"]
) -> Cache:
    """Returns the keys and values of a memory, which all steps attend to.

    Args:
      attention: Attention layer.
      memory: Memory that keys and values come from.
    """
    # Without the barrier XLA carries them as they were projected, and reorders them in each step.
    return jax.lax.optimization_barrier(_to_cache(*attention.keys_and_values(memory)))


def empty_cache(
    attention: MultiHeadAttention, like: Float[Array, "batch tokens width"], *, slots: int
) -> Cache:
    """Returns a cache of zeros, which only `write` fills.

    Args:
      attention: Attention layer.
      like: Any array of the batch that is decoded; says its size, width and dtype.
      slots: Number of tokens that the cache can hold.
    """
    batch, _, width = like.shape
    heads, head_dim = attention.num_heads, width // attention.num_heads
    return {
        "keys": jnp.zeros((batch, heads, head_dim, slots), like.dtype),
        "values": jnp.zeros((batch, heads, slots, head_dim), like.dtype),
    }


def write(
    attention: MultiHeadAttention,
    cache: Cache,
    tokens: Float[Array, "batch rows width"],
    *,
    slot: Int[Array, ""],
) -> Cache:
    """Returns the cache with the keys and values of tokens in the slots from `slot` on.

    In a jitted loop that carries the cache it is written in place.

    Args:
      attention: Attention layer.
      cache: Cache made by `empty_cache`.
      tokens: Tokens that keys and values come from.
      slot: Index of the first of as many slots as there are rows.
    """
    new = _to_cache(*attention.keys_and_values(tokens))
    update = jax.lax.dynamic_update_slice_in_dim
    return {
        "keys": update(cache["keys"], new["keys"], slot, axis=3),
        "values": update(cache["values"], new["values"], slot, axis=2),
    }


def attend(
    attention: MultiHeadAttention,
    cache: Cache,
    tokens: Float[Array, "batch rows width"],
    *,
    mask: Bool[Array, "#batch #heads #rows slots"] | None = None,
) -> Float[Array, "batch rows width"]:
    """Returns the new tokens, in evaluation.

    Args:
      attention: Attention layer.
      cache: Cache of the keys and values that the tokens attend to.
      tokens: Tokens that the queries come from.
      mask: Mask, True where a row may attend; slots that were not written must be False.
    """
    keys = cache["keys"].transpose(0, 3, 1, 2)  # [batch, slots, heads, head_dim]
    values = cache["values"].swapaxes(1, 2)
    return attention.attend(tokens, keys, values, mask=mask)


def _to_cache(keys: jax.Array, values: jax.Array) -> Cache:
    return {"keys": keys.transpose(0, 2, 3, 1), "values": values.swapaxes(1, 2)}
