"""Looks into a model while it runs: a layer names a value, and `capture` takes it along.

Where nobody looks, `tap` costs nothing: the program is the same. Where somebody does, the model
computes what it always does, with the same layers, and the values come out beside its outputs.
"""

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "beside"],
    meta_fields=["name", "facts"],
)
@dataclasses.dataclass(frozen=True)
class Tapped:
    """A value that went through a `tap`.

    Attributes:
      name: Name of the tap: "attention" (what an attention returns, before its projection),
        "tokens" (what the attention of a block reads), "block" (what an encoder block returns) or
        "map" (what a stage returns).
      value: Value, which the model goes on with.
      beside: Arrays that belong to it: of an attention its "weights" and "values".
      facts: Pairs of a name and a constant, such as the grid of the tokens.
    """

    name: str
    value: Any  # an array, or what stands for one in a pytree
    beside: dict[str, Any]
    facts: tuple[tuple[str, Any], ...]


class _Capture:
    """Values of some names in the order of their calls; `added` is what each gets added."""

    def __init__(self, names: tuple[str, ...], added: Sequence[jax.Array] | None):
        self.names = names
        self.added = added
        self.found: list[Tapped] = []
        self.facts: dict[str, Any] = {}


class _Captures(threading.local):
    def __init__(self):
        self.now: _Capture | None = None


_CAPTURES = _Captures()


def tap(
    name: str, value: jax.Array, beside: Callable[[], dict[str, jax.Array]] | None = None
) -> jax.Array:
    """Returns the value, and gives it to the `capture` that is on, if one wants this name.

    Args:
      name: Name of the tap, see `Tapped`.
      value: Value to go on with.
      beside: Function that computes what belongs to it; is called only if it is wanted.
    """
    capture = _CAPTURES.now
    if capture is None or name not in capture.names:
        return value
    if capture.added is not None:
        value = value + capture.added[len(capture.found)]
    arrays = beside() if beside is not None else {}
    capture.found.append(Tapped(name, value, arrays, tuple(sorted(capture.facts.items()))))
    return value


def is_capturing() -> bool:
    """Returns whether values are taken along: loops and rematerialisation would keep them in."""
    return _CAPTURES.now is not None


@contextlib.contextmanager
def tap_facts(**facts: Any) -> Iterator[None]:
    """Lets the values tapped inside know constants, such as the shift of their windows."""
    capture = _CAPTURES.now
    if capture is None:
        yield
        return
    before, capture.facts = capture.facts, capture.facts | facts
    try:
        yield
    finally:
        capture.facts = before


def capture(
    call: Callable[[], Any], *names: str, added: Sequence[jax.Array] | None = None
) -> tuple[Any, list[Tapped]]:
    """Returns what a call returns, and the values it tapped, in their order.

    Stacked blocks run one after the other instead of in a loop. May be used under `jax.jit`.

    Args:
      call: Function that runs a model, itself not compiled.
      names: Names of the taps, see `Tapped`.
      added: Arrays that are added to the values, one for each; zeros to take gradients at. None:
        the values stay as they are.
    """
    before, _CAPTURES.now = _CAPTURES.now, _Capture(names, added)
    try:
        outputs = call()
        return outputs, _CAPTURES.now.found
    finally:
        _CAPTURES.now = before


def capture_gradients(
    call: Callable[[], jax.Array], objective: Callable[[jax.Array], jax.Array], *names: str
) -> tuple[jax.Array, list[Tapped], list[jax.Array]]:
    """Returns (outputs, tapped values, gradient of the objective at each of them).

    Args:
      call: Function that runs a model, itself not compiled.
      objective: Function of the outputs that returns the number to derive.
      names: Names of the taps, see `Tapped`.
    """
    shapes = jax.eval_shape(lambda: [each.value for each in capture(call, *names)[1]])
    zeros = [jnp.zeros(each.shape, each.dtype) for each in shapes]

    def derived(added: list[jax.Array]) -> tuple[jax.Array, Any]:
        outputs, found = capture(call, *names, added=added)
        return objective(outputs), (outputs, found)

    gradients, (outputs, found) = jax.grad(derived, has_aux=True)(zeros)
    return outputs, found, gradients
