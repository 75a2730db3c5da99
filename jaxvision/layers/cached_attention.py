"""Attention to keys and values that were computed before: one step of decoding.

The cache of a layer is {"keys", "values"}, both [batch, heads, slots, head_dim]: the layout that
the matrix products want, so that no step copies it.
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
      attention: the layer.
      memory: what keys and values come from.
    """
    return _heads_first(*attention.keys_and_values(memory))


def empty_cache(
    attention: MultiHeadAttention, like: Float[Array, "batch tokens width"], *, slots: int
) -> Cache:
    """Returns a cache of zeros, which only `write` fills.

    Args:
      attention: the layer.
      like: anything of the batch that is decoded; says its size, width and dtype.
      slots: number of tokens that it can hold.
    """
    batch, _, width = like.shape
    zeros = jnp.zeros((batch, attention.num_heads, slots, width // attention.num_heads), like.dtype)
    return {"keys": zeros, "values": zeros}


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
      attention: the layer.
      cache: of `empty_cache`.
      tokens: what keys and values come from.
      slot: the first of as many slots as there are rows.
    """
    new = _heads_first(*attention.keys_and_values(tokens))
    return {
        name: jax.lax.dynamic_update_slice_in_dim(cache[name], new[name], slot, axis=2)
        for name in cache
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
      attention: the layer.
      cache: what the tokens attend to.
      tokens: where the queries come from.
      mask: True where a row may attend; slots that were not written must be False.
    """
    keys, values = (cache[name].swapaxes(1, 2) for name in ("keys", "values"))
    return attention.attend(tokens, keys, values, mask=mask)


def _heads_first(keys: jax.Array, values: jax.Array) -> Cache:
    return {"keys": keys.swapaxes(1, 2), "values": values.swapaxes(1, 2)}
