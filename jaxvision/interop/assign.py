"""Arrays in memory into a model by the names of a library, and a model's arrays out to them."""

import contextlib
import fnmatch
import importlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxvision.errors import InputError, shorten
from jaxvision.interop.adapt import Fit, Source, fit_heads
from jaxvision.interop.choose import Table
from jaxvision.interop.report import LoadReport
from jaxvision.interop.rules import (
    Entry,
    Misfit,
    Rule,
    Weights,
    check_names,
    convert,
    count_known,
    expand,
    export,
    flatten,
)
from jaxvision.layers.adapter import lora_scale, merge_adapters, without_adapters
from jaxvision.layers.block_stack import stack_blocks, unstack_blocks
from jaxvision.models.image_model import TRAINING_ONLY
from jaxvision.models.spec import Model
from jaxvision.options.size import Size

OWN = "jaxvision"  # the source of a run's checkpoint: our paths are its names
_DECODER = "decoder/"


def assign_weights(
    model: nnx.Module,
    weights: Weights,
    *,
    source: str | None = None,
    image_size: Size | None = None,
) -> LoadReport:
    """Puts arrays that are in memory into a model; see `load_weights`.

    Args:
      model: Any model of `create_model`.
      weights: Arrays by name, e.g. of a `state_dict`.
      source: Library whose names the weights have, see `load_weights`.
      image_size: Size of the images that the weights belong to, see `load_weights`.

    Raises:
      InputError: if an array is neither used nor excused, or not finite.
    """
    name = source or detect_source(model, weights)
    chosen, config = source_of(model, name)
    rules = chosen.rules(config)
    current = _trees(model)
    target = jax.eval_shape(unstack_blocks, current)
    shapes = {path: leaf.shape for tree in target for path, leaf in flatten(tree).items()}
    every = expand(rules, shapes)
    entries = [entry for entry in every if entry.rule.constant is None]

    weights = chosen.prepare(weights, config)
    left_out, own_heads = fit_heads(weights, rules, shapes, chosen, config)
    missing = [f"{head}/*" for head in own_heads]
    try:
        fits = {**chosen.fits, **_encoder_fits(model)}
        adapted = _fit(weights, entries, shapes, fits, config, image_size) | own_heads
    except InputError:
        check_names(weights, every, allow_missing=missing)  # what is wrong first with another model
        raise
    loaded = [entry.find(weights) for entry in entries]
    _check_finite(weights, [name for name in loaded if name is not None])
    new = convert(weights, rules, target=target, allow_missing=missing)

    if jax.tree.structure(current) != jax.tree.structure(target):
        new = stack_blocks(new)
    for tree in jax.tree.map(jnp.asarray, new):  # nothing was written before this line
        nnx.update(model, tree)
    return LoadReport(
        name,
        tuple(n for n in dict.fromkeys(loaded) if n is not None),
        adapted,
        left_out,
        notes=_notes(name, chosen, config),
    )


def _check_finite(weights: Weights, names: list[str]) -> None:
    for name in names:
        bad = np.size(weights[name]) - np.count_nonzero(np.isfinite(weights[name]))
        if bad:
            raise InputError(
                f"{shorten(name)} has {bad} values that are NaN or infinite, of "
                f"{np.size(weights[name])}: the file is damaged, or of a training that diverged."
            )


def extract_weights(model: nnx.Module, *, format: str = "timm") -> Weights:
    """Returns the weights in memory that `save_weights` writes, with adapters merged.

    Args:
      model: Any model of `create_model`.
      format: Library whose names are used: "timm", "torchvision", "hf", ...; see `load_weights`.

    Raises:
      InputError: if the library has no such model.
    """
    chosen, config = source_of(model, format)
    params, batch_stats = jax.device_get(_all_trees(model))
    params, batch_stats = unstack_blocks((merge_adapters(params, lora_scale(model)), batch_stats))
    return export(params, batch_stats, chosen.rules(config))


def entries_of(model: nnx.Module, *, format: str) -> list[Entry]:
    """Returns what a file of a library holds of a model, an entry for each array.

    Args:
      model: Any model of `create_model`, also of shapes.
      format: Library whose names are wanted: "timm", "torchvision", "hf", ...; see `load_weights`.

    Raises:
      InputError: if the library has no such model.
    """
    chosen, config = source_of(model, format)
    return expand(chosen.rules(config), _paths(model))


def weight_names(model: nnx.Module, *, format: str) -> dict[str, tuple[str, ...]]:
    """Returns {name there: our paths} of every array that both sides have.

    Args:
      model: Any model of `create_model`, also of shapes.
      format: Library whose names are wanted: "timm", "torchvision", "hf", ...; see `load_weights`.

    Raises:
      InputError: if the library has no such model.
    """
    entries = entries_of(model, format=format)
    return {entry.names[0]: entry.targets for entry in entries if entry.rule.constant is None}


def count_classes(model: nnx.Module, weights: Weights, *, source: str | None = None) -> int | None:
    """Returns the classes (of a captioner the words) of the weights, None if they tell none.

    Args:
      model: Model with any head, also of shapes.
      weights: Arrays by name, see `assign_weights`.
      source: Library whose names the weights have, see `load_weights`.

    Raises:
      InputError: if the weights belong to another family.
    """
    chosen, config = source_of(model, source or detect_source(model, weights))
    weights = chosen.prepare(weights, config)
    head = chosen.heads[0] if chosen.heads else ""
    has_bias = f"{head}/bias" in _paths(model) or f"{head}/kernel" not in _paths(model)
    path = chosen.classes or f"{head}/{'bias' if has_bias else 'kernel'}"
    for rule in chosen.rules(config):
        if rule.targets == path:
            names = [name for name in (rule.source, *rule.aliases) if name in weights]
            if not names:
                return None
            array = weights[names[0]]
            return (
                len(array) if chosen.classes or has_bias else rule.transform.to_jax(array).shape[1]
            )
    return None


def formats_of(model: nnx.Module) -> tuple[str, ...]:
    """Returns the libraries that have such models, of which `load_weights` and others know names.

    Args:
      model: Any model of `create_model`, also of shapes.
    """
    return *_sources(model)[0], OWN


def tables_of(model: nnx.Module) -> list[Table]:
    """Returns the names that a model has in each library that has such a model.

    Args:
      model: Any model of `create_model`, also of shapes.
    """
    sources, config = _sources(model)
    own = _own_source(model, sources)
    paths = _paths(model)
    tables = [Table(own.rules(config), own.heads, len(paths))]
    for source in sources.values():
        rules = source.rules(config)
        with contextlib.suppress(InputError):  # the library has no such model
            entries = expand(rules, paths)
            size = sum(entry.rule.constant is None for entry in entries)
            tables.append(Table(rules, source.heads, size))
    return tables


def detect_source(model: nnx.Module, weights: Weights) -> str:
    """Returns the source whose table knows most of the names, the first if two know as many.

    Args:
      model: Any model of `create_model`, also of shapes.
      weights: Arrays by name.

    Raises:
      InputError: if no table knows any of them.
    """
    sources, config = _sources(model)
    known = sources | {OWN: _own_source(model, sources)}
    counts = {
        name: count_known(each.prepare(weights, config), each.rules(config))
        for name, each in known.items()
    }
    best = max(counts, key=lambda name: counts[name])
    if counts[best] == 0:
        raise Misfit(
            f"The names in the file are those of no {type(model).__name__} of "
            f"{' or '.join(sources or [OWN])}: {', '.join(map(repr, list(weights)[:3]))}, ...; "
            "give the file to the model that it belongs to."
        )
    return best


def source_of(model: nnx.Module, name: str) -> tuple[Source, Any]:
    """Returns the source and the model's config, once it is sure that they go together.

    Args:
      model: Any model of `create_model`.
      name: Library whose names are meant, see `load_weights`.

    Raises:
      InputError: if the library has no such model.
    """
    sources, config = _sources(model)
    if name == OWN:
        return _own_source(model, sources), config
    if name not in sources:
        raise InputError(
            f"Weights of a {type(model).__name__} are known from {', '.join([*sources, OWN])}, "
            f"got {name!r}."
        )
    for field, value in sources[name].requires.items():
        value = value(config) if callable(value) else value
        if getattr(config, field) != value:
            raise InputError(
                f"{name} has no {type(model).__name__} with {field}={getattr(config, field)!r}: "
                f"build the model with {field}={value!r} or use another format."
            )
    return sources[name], config


def _sources(model: nnx.Module) -> tuple[dict[str, Source], Any]:
    """Returns the tables that the model's class names, by library, and the model's config."""
    if not isinstance(model, Model):
        raise InputError(f"Weights belong to models of create_model, got a {type(model).__name__}.")
    sources = model.weight_sources
    if isinstance(sources, str):  # a file in models/ cannot import its table, which imports it
        module, _, name = sources.partition(":")
        sources = getattr(importlib.import_module(module), name)
    return dict(sources or {}), model.config


def _own_source(model: nnx.Module, sources: dict[str, Source]) -> Source:
    """Returns the source of files that have our own names."""
    paths = _paths(model)
    others = list(sources.values()) or [Source(rules=lambda config: ())]
    fits = others[0].fits
    heads = max((other.heads for other in others), key=len)
    # A model without a head knows the names of one, to leave it out.
    paths += [path for head in heads for path in (f"{head}/kernel", f"{head}/bias")]
    # An encoder goes on without the decoder of its masked autoencoder.
    has_decoder = any(path.startswith(_DECODER) for path in paths)
    return Source(
        rules=lambda config: tuple(Rule(path, path) for path in dict.fromkeys(paths)),
        requires={},
        fits=fits,
        heads=heads,
        classes=others[0].classes,
        unused=lambda config: () if has_decoder else (f"{_DECODER}*",),
    )


def _encoder_fits(model: nnx.Module) -> dict[str, Fit]:
    """Returns what of a model's image encoder can be made to fit, by our paths of the model."""
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, Model):
        return {}
    sources, config = _sources(encoder)

    def inside(fit: Fit) -> Fit:
        return lambda array, shape, _, image_size: fit(array, shape, config, image_size)

    first = next(iter(sources.values()), None)
    return {f"encoder/{path}": inside(fit) for path, fit in first.fits.items()} if first else {}


def _trees(model: nnx.Module) -> tuple[Any, Any]:
    """Returns (params, batch_stats) as nested dicts, without what is there for training only."""
    params, batch_stats = _all_trees(model)
    return without_adapters(params), batch_stats


def _all_trees(model: nnx.Module) -> tuple[Any, Any]:
    """Returns (params, batch_stats) as nested dicts, with adapters."""
    params, batch_stats = map(nnx.to_pure_dict, nnx.state(model, nnx.Param, nnx.BatchStat))
    for tree in (params, batch_stats):
        for name in TRAINING_ONLY:
            tree.pop(name, None)
    return params, batch_stats


def _paths(model: nnx.Module) -> list[str]:
    """Returns our paths, one per block."""
    return [p for tree in jax.eval_shape(unstack_blocks, _trees(model)) for p in flatten(tree)]


def _fit(
    weights: Weights,
    entries: list[Entry],
    shapes: dict,
    fits: Mapping[str, Fit],
    config: Any,
    image_size: Size | None,
) -> dict[str, str]:
    """Replaces what can be made to fit; returns our path -> what was done."""
    done = {}
    for entry in entries:
        path, name, transform = entry.targets[0], entry.find(weights), entry.rule.transform
        fit = _matching(fits, path)
        if fit is None or name is None:
            continue
        if weights[name].ndim != len(entry.shape_in_file(shapes)):
            continue
        fitted = fit(transform.to_jax(weights[name]), shapes[path], config, image_size)
        if fitted is not None:
            weights[name], done[path] = transform.to_torch(fitted[0]), fitted[1]
    return done


def _matching(fits: Mapping[str, Fit], path: str) -> Fit | None:
    return next((fit for name, fit in fits.items() if fnmatch.fnmatchcase(path, name)), None)


def _notes(name: str, source: Source, config: Any) -> tuple[str, ...]:
    return tuple(
        f"the model has {field}={getattr(config, field)!r}, {name} usually {value!r}"
        for field, value in source.usual.items()
        if getattr(config, field) != value
    )
