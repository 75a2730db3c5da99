"""Weights of timm and torchvision into a model, and a model's weights out to them."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.interop import resnet, vit
from jaxvision.interop.adapt import Source
from jaxvision.interop.formats import check_writable, read_weights, write_weights
from jaxvision.interop.rules import (
    Entry,
    Rule,
    Weights,
    convert,
    count_known,
    expand,
    export,
    flatten,
)
from jaxvision.layers.block_stack import stack_blocks, unstack_blocks
from jaxvision.models.resnet import ResNet
from jaxvision.models.vit import ViT

# A new family is one entry here.
_SOURCES: dict[type, dict[str, Source]] = {ViT: vit.SOURCES, ResNet: resnet.SOURCES}


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of a file.

    Attributes:
      source: library whose names the file has; for a ResNet, timm's are torchvision's.
      loaded: names in the file that the model now holds, adapted ones among them.
      adapted: our path -> what was done to make it fit, or why the model kept its own.
      left_out: names in the file that were not used, each for a reason in `adapted` or because the
        model has no head.
    """

    source: str
    loaded: tuple[str, ...]
    adapted: dict[str, str]
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"loaded {len(self.loaded)} arrays named as in {self.source}"]
        lines += [f"adapted {path}: {text}" for path, text in self.adapted.items()]
        lines += [f"left out {name}" for name in self.left_out]
        return "\n".join(lines)


def load_weights(
    model: nnx.Module, path: str | pathlib.Path, *, source: str | None = None
) -> LoadReport:
    """Puts the weights of a file into a model, in place, and returns what was done.

    Everything must fit, with three exceptions that the report names: a head for another number of
    classes (the model keeps its own), positions of another grid, and a first kernel for another
    number of channels. A model that raises is as it was before.

    Args:
      model: any model of `create_model`.
      path: `.safetensors`, `.npz`, `.pth` or `.pt`. Never runs code from the file.
      source: "timm" or "torchvision"; None: told by the names in the file.

    Raises:
      InputError: if the file cannot be read, or an array is neither used nor excused; the message
        names it.
    """
    return assign_weights(model, read_weights(path), source=source)


def save_weights(model: nnx.Module, path: str | pathlib.Path, *, format: str = "timm") -> None:
    """Writes a model's weights under another library's names; they load there with strict=True.

    Args:
      model: any model of `create_model`.
      path: `.safetensors` or `.npz`; replaced at once when all is written.
      format: "timm" or "torchvision".

    Raises:
      InputError: if the suffix is another, or the library has no such model.
    """
    check_writable(path)
    write_weights(path, extract_weights(model, format=format))


def assign_weights(model: nnx.Module, weights: Weights, *, source: str | None = None) -> LoadReport:
    """Puts arrays that are in memory into a model; see `load_weights`.

    Args:
      model: any model of `create_model`.
      weights: name -> array, e.g. of a `state_dict`.
      source: "timm" or "torchvision"; None: told by the names.

    Raises:
      InputError: if an array is neither used nor excused.
    """
    name = source or _detect(model, weights)
    chosen, config = _source(model, name)
    rules = chosen.rules(config)
    current = _trees(model)
    target = jax.eval_shape(unstack_blocks, current)
    shapes = {path: leaf.shape for tree in target for path, leaf in flatten(tree).items()}
    entries = [entry for entry in expand(rules, shapes) if entry.rule.constant is None]

    weights = dict(weights)
    adapted = _fit(weights, entries, shapes, chosen, config)
    left_out, own_head = _fit_head(weights, rules, shapes)
    if own_head:
        adapted["head"] = own_head
    new = convert(weights, rules, target=target, allow_missing=("head/*",) if own_head else ())

    if jax.tree.structure(current) != jax.tree.structure(target):
        new = stack_blocks(new)
    for tree in jax.tree.map(jnp.asarray, new):  # nothing was written before this line
        nnx.update(model, tree)
    loaded = [entry.find(weights) for entry in entries]
    return LoadReport(name, tuple(n for n in loaded if n is not None), adapted, left_out)


def extract_weights(model: nnx.Module, *, format: str = "timm") -> Weights:
    """Returns the weights in memory that `save_weights` writes.

    Args:
      model: any model of `create_model`.
      format: "timm" or "torchvision".

    Raises:
      InputError: if the library has no such model.
    """
    chosen, config = _source(model, format)
    params, batch_stats = unstack_blocks(jax.device_get(_trees(model)))
    return export(params, batch_stats, chosen.rules(config))


def _trees(model: nnx.Module) -> tuple[Any, Any]:
    """Returns (params, batch_stats) as nested dicts."""
    params, batch_stats = nnx.state(model, nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def _sources(model: nnx.Module) -> dict[str, Source]:
    if type(model) not in _SOURCES:
        names = ", ".join(sorted(family.__name__ for family in _SOURCES))
        raise InputError(
            f"Weights can be exchanged for {names}, got a {type(model).__name__}: give a model of "
            "create_model."
        )
    return _SOURCES[type(model)]


def _source(model: nnx.Module, name: str) -> tuple[Source, Any]:
    """Returns the source and the model's config, once it is sure that they go together."""
    sources, config = _sources(model), getattr(model, "config", None)
    if name not in sources:
        raise InputError(
            f"Weights of a {type(model).__name__} are known from {', '.join(sources)}, "
            f"got {name!r}."
        )
    for field, value in sources[name].requires.items():
        if getattr(config, field) != value:
            raise InputError(
                f"{name} has no {type(model).__name__} with {field}={getattr(config, field)!r}: "
                f"build the model with {field}={value!r} or use another format."
            )
    return sources[name], config


def _detect(model: nnx.Module, weights: Weights) -> str:
    """Returns the source whose table knows most of the names, the first if two know as many."""
    sources, config = _sources(model), getattr(model, "config", None)
    counts = {name: count_known(weights, each.rules(config)) for name, each in sources.items()}
    best = max(counts, key=lambda name: counts[name])
    if counts[best] == 0:
        raise InputError(
            f"The names in the file are those of no {type(model).__name__} of "
            f"{' or '.join(sources)}: {', '.join(map(repr, list(weights)[:3]))}, ...; give the "
            "file to the model that it belongs to."
        )
    return best


def _fit(
    weights: Weights, entries: list[Entry], shapes: dict, source: Source, config: Any
) -> dict[str, str]:
    """Replaces what can be made to fit; returns our path -> what was done."""
    done = {}
    for entry in entries:
        path, name, transform = entry.targets[0], entry.find(weights), entry.rule.transform
        if path not in source.fits or name is None or weights[name].ndim != len(shapes[path]):
            continue
        array = transform.to_jax(weights[name])
        fitted = None
        if array.shape != shapes[path]:
            fitted = source.fits[path](array, shapes[path], config)
        if fitted is not None:
            weights[name], done[path] = transform.to_torch(fitted[0]), fitted[1]
    return done


def _fit_head(
    weights: Weights, rules: tuple[Rule, ...], shapes: dict
) -> tuple[tuple[str, ...], str | None]:
    """Takes out a head that the model cannot use.

    Returns:
      The names taken out, and why the model keeps its own head, or None if it has none or uses the
      one of the file.
    """
    head = {rule.targets: rule.source for rule in rules if str(rule.targets).startswith("head/")}
    present = tuple(name for name in head.values() if name in weights)
    if "head/kernel" not in shapes:
        reason = None
    elif not present:
        return (), "the file has none, the model keeps its own"
    else:
        width, classes = shapes["head/kernel"]
        kernel, bias = (weights.get(head[path]) for path in ("head/kernel", "head/bias"))
        if kernel is None or bias is None or kernel.shape != (*bias.shape, width):
            return (), None  # not a head of this model at all: `convert` says what is wrong
        if bias.shape == (classes,):
            return (), None
        reason = f"{len(bias)} classes in the file, {classes} in the model: the model keeps its own"
    for name in present:
        del weights[name]
    return present, reason
