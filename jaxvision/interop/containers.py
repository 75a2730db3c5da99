"""Where the weights are in what a training program saved: the places that may be meant."""

import dataclasses
from typing import Any

import numpy as np

from jaxvision.errors import InputError, shorten
from jaxvision.interop.torch_pickle import Array, Tensor, is_other_tensor, what_it_is
from jaxvision.plain_pickle import Inert

_MAX_NAME = 1000  # characters; real ones have a hundred
_MAX_ARRAYS = 50_000  # real models have a thousand
_MAX_DEPTH = 4  # of dictionaries in dictionaries
_MAX_PARTS = 100_000  # of a module
_MODULE = ("_parameters", "_buffers", "_modules")


@dataclasses.dataclass(frozen=True)
class Place:
    """One dictionary of arrays in a file.

    Attributes:
      keys: Keys that lead to it, e.g. ("model_ema",); none: the file is nothing else.
      values: Arrays by name: `np.ndarray`, or `Tensor` whose numbers are not read yet, or whatever
        stands beside them.
    """

    keys: tuple[str, ...]
    values: dict[str, Any]


def find_places(saved: Any, path: Any) -> list[Place]:
    """Returns every dictionary of arrays in an object, the outermost first.

    Args:
      saved: Object that a file holds, which can be anything.
      path: Path of the file, for the text of an error.

    Raises:
      InputError: if there is none; the message says what there is.
    """
    places = []
    seen: set[int] = set()  # a dictionary may hold itself, or another many times
    level: list[tuple[tuple[str, ...], Any]] = [((), saved)]
    for _ in range(_MAX_DEPTH):
        inner = []
        for keys, value in level:
            content = _content(value, path)
            if content is None or id(value) in seen:
                continue
            seen.add(id(value))
            if any(map(is_array, content.values())):
                places.append(Place(keys, content))
            inner += [
                ((*keys, key), each)
                for key, each in content.items()
                if isinstance(each, dict | Inert) and len(key) <= _MAX_NAME
            ]
        level = inner
    if not places:
        raise InputError(
            f"{path} should hold a state_dict, alone or under a name such as state_dict or model, "
            f"but holds {_describe(saved)}: torch.save(model.state_dict(), path)."
        )
    return places


def check_names(places: list[Place], path: Any) -> None:
    """Raises InputError if there are so many or so long names that they take time to look at."""
    count = sum(is_array(value) for place in places for value in place.values.values())
    if count > _MAX_ARRAYS:
        raise InputError(f"{path} has {count:,} arrays, up to {_MAX_ARRAYS:,} are read.")
    for place in places:
        for name in place.values:
            if len(name) > _MAX_NAME:
                raise InputError(
                    f"{path} has a name of {len(name):,} characters: {shorten(name)!r}."
                )


def _content(value: Any, path: Any) -> dict[str, Any] | None:
    """Returns the entries of a dictionary or of a pickled module; None: it is neither."""
    if isinstance(value, Inert):
        return _state_dict(value, path) if _is_module(value) else None
    if not isinstance(value, dict):
        return None
    content = {}
    for key, each in value.items():
        name = key.decode("utf-8", "replace") if isinstance(key, bytes) else key  # of Python 2
        if isinstance(name, str):
            content[name] = each.values if is_array(each) and isinstance(each, Array) else each
    return content


def is_array(value: Any) -> bool:
    """Returns whether a value is an array or a tensor, also one that cannot be read."""
    if isinstance(value, Array):
        return value.values is not None
    return isinstance(value, np.ndarray | Tensor) or is_other_tensor(value)


def _describe(saved: Any) -> str:
    if isinstance(saved, dict):
        names = [repr(shorten(name, 50)) for name in list(saved)[:3] if isinstance(name, str)]
        return f"a dict with {', '.join(names) or 'nothing'}"
    if isinstance(saved, Tensor | np.ndarray):
        return "a single tensor"
    return what_it_is(saved)


# --- modules that were pickled whole ------------------------------------------------------------


def _is_module(value: Any) -> bool:
    state = value.state if isinstance(value, Inert) else None
    return isinstance(state, dict) and all(isinstance(state.get(name), dict) for name in _MODULE)


def _state_dict(module: Inert, path: Any) -> dict[str, Any]:
    """Returns what `module.state_dict()` would, from the attributes of modules never built."""
    found: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", module)]
    parts = 0
    while waiting:
        prefix, each = waiting.pop()
        if not _is_module(each) or len(prefix) > _MAX_NAME:
            continue
        parts += sum(len(each.state[group]) for group in _MODULE)
        if parts > _MAX_PARTS:  # a module may be its parents' child many times
            raise InputError(f"{path} has a module of more than {_MAX_PARTS:,} parts.")
        skipped = _not_saved(each)
        for group in ("_parameters", "_buffers"):
            for name, value in each.state[group].items():
                if isinstance(name, str) and value is not None and name not in skipped:
                    found[f"{prefix}{name}"] = value
        children = reversed(each.state["_modules"].items())
        waiting += [(f"{prefix}{key}.", x) for key, x in children if isinstance(key, str)]
    return found


def _not_saved(module: Inert) -> set[str]:
    """Returns the buffers that a `state_dict` leaves out."""
    names = module.state.get("_non_persistent_buffers_set") if module.state else None
    items = names.items if isinstance(names, Inert) else None
    return {name for name in items or () if isinstance(name, str)}
