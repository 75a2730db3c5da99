"""--config.model.kwargs.FIELD=VALUE: every field of the chosen family's config, one by one."""

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from jaxvision.errors import InputError
from jaxvision.models.registry import get_spec

PREFIX = "--config.model.kwargs"


def set_model_options(config: Any, options: Iterable[tuple[str, str]]) -> None:
    """Sets fields of the model's config in `config.model.kwargs`, beside those of the recipe card.

    Args:
      config: Config whose `model.name` is the one that will be built.
      options: Pairs (name, text) in the order of the command line: a field, a part of a field such
        as "encoder_options.depth", or "" for a dict of fields; an empty dict leaves out those of
        the recipe card.

    Raises:
      InputError: if there is no such model or field, or the text is no value of it.
    """
    spec = get_spec(config.model.name)
    hints = typing.get_type_hints(type(spec.config))
    fields = {field.name: hints[field.name] for field in dataclasses.fields(spec.config)}
    kwargs = config.model.kwargs
    for name, text in options:
        if not name:
            given = _value(text)
            if not isinstance(given, Mapping):
                raise InputError(f"{PREFIX} must be a dict such as \"{{'depth': 2}}\", got {text}.")
            if not given:
                for old in list(kwargs):
                    del kwargs[old]
        else:
            given = {name: _value(text)}
        for path, value in given.items():
            field, *inner = str(path).split(".")
            if field in (spec.outputs_option, "dtype"):
                own = "dtype" if field == "dtype" else "num_classes"
                raise InputError(f"{PREFIX}.{field} is an option of its own: --config.model.{own}.")
            if field not in fields:
                nearest = difflib.get_close_matches(field, fields, n=3, cutoff=0.6)
                hint = f"did you mean {nearest[0]}?" if nearest else f"it has {', '.join(fields)}."
                raise InputError(f"{PREFIX}: {spec.name} has no option {field!r}; {hint}")
            if inner and "Mapping" not in str(fields[field]):
                raise InputError(f"{PREFIX}.{path}: {field} has no parts.")
            if not inner and not _fits(value, fields[field]):
                raise InputError(f"{PREFIX}.{path} must be {_kind(fields[field])}, got {value!r}.")
            is_float = not inner and fields[field] is float
            _set(kwargs, [field, *inner], float(value) if is_float else value)


def _value(text: str) -> Any:
    """Returns a Python literal, or a word as it is."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a literal is a value of a type; a whole number is a float, too."""
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is typing.Literal:
        return value in parts
    if kind is tuple and isinstance(value, list | tuple):
        repeated = parts[:1] * len(value) if parts[-1:] == (...,) else parts
        return len(repeated) == len(value) and all(map(_fits, value, repeated))
    if isinstance(value, bool) or kind is types.NoneType:
        return isinstance(value, kind)
    return kind is Any or isinstance(value, (int, float) if kind is float else kind)


def _kind(hint: Any) -> str:
    """Returns a type as a message says it."""
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return " or ".join(map(_kind, parts))
    if kind is typing.Literal:
        return " or ".join(map(str, parts))
    if kind is bool:
        return "True or False"
    return getattr(hint, "__name__", str(hint)) if not parts else str(hint)


def _set(kwargs: Any, path: list[str], value: Any) -> None:
    *groups, leaf = path
    for group in groups:
        if group not in kwargs or not hasattr(kwargs[group], "keys"):
            kwargs[group] = {}
        kwargs = kwargs[group]
    with kwargs.ignore_type():
        kwargs[leaf] = value
