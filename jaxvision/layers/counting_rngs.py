"""Sources of initial values that count in Python."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx


class CountingStream(nnx.RngStream):
    """A stream of the same keys as nnx's, made to be traced.

    nnx keeps the count in an array and, where that is traced, looks up its origin at every draw,
    which takes half the time of tracing a model.

    Args:
      key: Key that the stream starts from.
      tag: Name of the stream.
      drawn: Number of keys that were drawn from it before.
    """

    def __init__(self, key: jax.Array, *, tag: str, drawn: int = 0):
        super().__init__(key, tag=tag)
        self.drawn = drawn

    def __call__(self) -> jax.Array:
        """Returns the next key."""
        key = jax.random.fold_in(self.key[...], np.uint32(self.drawn))
        self.drawn += 1
        return key


def counting_rngs(
    keys: Mapping[str, jax.Array], drawn: Mapping[str, int] | None = None
) -> nnx.Rngs:
    """Returns what `nnx.Rngs(**keys)` returns, for building a model only.

    Args:
      keys: Key of each stream.
      drawn: Number of keys that were drawn from each stream before; None: none.
    """
    rngs = nnx.Rngs(**keys)
    for name, key in keys.items():
        setattr(rngs, name, CountingStream(key, tag=name, drawn=drawn[name] if drawn else 0))
    return rngs


def drawn_from(rngs: nnx.Rngs, name: str) -> int:
    """Returns how many keys were drawn from a stream of `counting_rngs`."""
    stream: Any = rngs[name]
    return stream.drawn
