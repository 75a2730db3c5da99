"""Which model of the catalogue weights belong to, told by their names and shapes."""

import contextlib
import dataclasses
import functools
import importlib
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.interop.adapt import Source
from jaxvision.interop.choose import count_prefixes
from jaxvision.interop.rules import Misfit, expand, flatten, name_pattern
from jaxvision.layers.block_stack import unstack_blocks
from jaxvision.models.registry import create_model, get_spec, list_models
from jaxvision.models.spec import ModelSpec

_NO_PARAMETER = re.compile(
    r".*(running_mean|running_var|num_batches_tracked|relative_position_index|attn_mask"
    r"|relative_coords_table)"
)
_MOST_NAMES = 5000  # real models have a thousand
_KNOWN = 0.5  # of the names in the file, at least
_NEAR = 1.5  # ratio of the numbers of parameters, where they differ
_MOST_BUILT = 4  # variants whose shapes are looked at
_OF_NO_SHAPE = ("num_classes", "image_size", "in_channels")


@dataclasses.dataclass(frozen=True)
class Identity:
    """What weights are of.

    Attributes:
      names: Names of the models that have such weights, the first of the catalogue first.
      sources: Libraries that name them so.
      classes: Number of classes; None: there is no head.
    """

    names: tuple[str, ...]
    sources: tuple[str, ...]
    classes: int | None

    def __str__(self) -> str:
        first, *others = self.names
        article = "an" if first[0] in "aeio" else "a"
        also = f" (or {' or '.join(others[:2])})" if others else ""
        head = "without a head" if self.classes is None else f"with {self.classes} classes"
        return f"{article} {first}{also} of {' or '.join(self.sources)} {head}"


@dataclasses.dataclass(frozen=True)
class _Match:
    """A variant, and a library in whose table the names are.

    Attributes:
      known: Number of names that the table knows.
      shapes: Shape of each of them.
      rules: Table of rules.
      classes: Number of classes; None: there is no head.
      num_params: Number of parameters that there would be with as many classes as published.
    """

    spec: ModelSpec
    library: str
    source: Source
    rules: tuple[Any, ...]
    known: int
    shapes: Mapping[str, tuple[int, ...]]
    classes: int | None
    num_params: int

    @property
    def exact(self) -> bool:
        """Whether these are as many parameters as published, of those without a head too."""
        missing = (self.spec.num_params or 0) - self.num_params
        published = self.spec.config.num_classes
        if self.classes is not None or missing <= 0 or not published:
            return missing == 0
        kernels = {f"{head}/kernel" for head in self.source.heads}
        heads = sum(rule.targets in kernels for rule in self.rules)
        width = missing / (published * max(heads, 1)) - 1
        return any(width in shape for shape in self.shapes.values())

    @property
    def ratio(self) -> float:
        ratio = math.log(max(self.num_params, 1) / (self.spec.num_params or 1))
        return math.exp(abs(ratio))


def identify(weights: Mapping[str, Any]) -> Identity | None:
    """Returns the model of the catalogue whose weights these are; None: of no model.

    A family is told by its names, a variant by the number of its parameters, or by its shapes where
    the weights have another grid of positions, other channels or no head.

    Args:
      weights: Arrays by name, or anything with shapes; a prefix before all names does not matter.
    """
    if len(weights) > _MOST_NAMES:
        return None
    shapes = {name: tuple(array.shape) for name, array in weights.items()}
    matches = _matches(shapes)
    most = max((match.known for match in matches), default=0)
    matches = [match for match in matches if match.known == most]
    return _identity([match for match in matches if match.exact] or _fitting(matches))


def _identity(matches: list[_Match]) -> Identity | None:
    if not matches:
        return None
    names = tuple(dict.fromkeys(match.spec.name for match in matches))
    libraries = tuple(dict.fromkeys(match.library for match in matches))
    return Identity(names, libraries, matches[0].classes)


def _matches(shapes: Mapping[str, tuple[int, ...]]) -> list[_Match]:
    """Returns all variants and libraries that know most of the names."""

    @functools.cache
    def count(pattern: re.Pattern[str]) -> tuple[str, int]:
        return max(count_prefixes(shapes, pattern).items(), key=lambda x: x[1], default=("", 0))

    @functools.cache
    def known_shapes(pattern: re.Pattern[str], prefix: str) -> dict[str, tuple[int, ...]]:
        return {
            name[len(prefix) :]: shape
            for name, shape in shapes.items()
            if name.startswith(prefix) and pattern.fullmatch(name, len(prefix))
        }

    matches = []
    for name in list_models():
        spec = get_spec(name)
        for library, source in _sources(spec).items():
            rules = source.rules(spec.config)
            pattern = name_pattern(rules)
            prefix, known = count(pattern)
            if known < max(1, _KNOWN * len(shapes)):
                continue
            inside = known_shapes(pattern, prefix)
            heads = _head_shapes(inside, rules, source)
            size = sum(math.prod(x) for n, x in inside.items() if not _NO_PARAMETER.fullmatch(n))
            published = spec.config.num_classes
            size += sum((published - number) * parameters for number, parameters in heads)
            classes = heads[0][0] if heads else None
            matches.append(_Match(spec, library, source, rules, known, inside, classes, size))
    return matches


def _sources(spec: ModelSpec) -> Mapping[str, Source]:
    sources = getattr(spec.build, "weight_sources", None)
    if isinstance(sources, str):
        module, _, name = sources.partition(":")
        sources = getattr(importlib.import_module(module), name)
    return sources or {}


def _head_shapes(shapes: Mapping[str, Any], rules: Any, source: Source) -> list[tuple[int, int]]:
    """Returns (classes, parameters of a class) of each classifier."""
    found = []
    for head in source.heads:
        names = {rule.targets: rule.source for rule in rules}
        bias = shapes.get(names.get(f"{head}/bias", ""))
        kernel = shapes.get(names.get(f"{head}/kernel", ""))
        if bias and kernel:
            found.append((bias[0], math.prod(kernel) // max(bias[0], 1) + 1))
        elif kernel:  # of torch: [classes, width]
            found.append((kernel[0], math.prod(kernel[1:])))
    return found


def _fitting(matches: list[_Match]) -> list[_Match]:
    """Returns those of the nearest variants whose shapes are those of the weights."""
    near = sorted((m for m in matches if m.ratio < _NEAR), key=lambda match: match.ratio)
    names = list(dict.fromkeys(match.spec.name for match in near))[:_MOST_BUILT]
    shapes = {name: _model_shapes(name) for name in names}
    return [m for m in near if m.spec.name in shapes and _fits(m, shapes[m.spec.name])]


def _model_shapes(name: str) -> dict[str, tuple[int, ...]]:
    model: Any = nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))
    states = nnx.state(model, nnx.Param, nnx.BatchStat)
    trees = jax.eval_shape(unstack_blocks, tuple(map(nnx.to_pure_dict, states)))
    return {path: leaf.shape for tree in trees for path, leaf in flatten(tree).items()}


def _fits(match: _Match, shapes: dict[str, tuple[int, ...]]) -> bool:
    try:
        entries = expand(match.rules, shapes)
    except InputError:  # the library has no such variant
        return False
    used = set()
    for entry in entries:
        path, name = entry.targets[0], entry.find(match.shapes)
        head = path.rpartition("/")[0] in match.source.heads
        if name is None:
            if entry.rule.constant is None and not head:
                return False
            continue
        used.add(name)
        free = head or any(re.fullmatch(p.replace("*", ".*"), path) for p in match.source.fits)
        if entry.rule.constant is None and not free:
            if any(target not in shapes for target in entry.targets):
                return False
            if entry.shape_in_file(shapes) != match.shapes[name]:
                return False
    return used == match.shapes.keys()


@contextlib.contextmanager
def naming_the_model(
    path: str | pathlib.Path, weights: Mapping[str, Any], model: nnx.Module
) -> Iterator[None]:
    """Says of weights that do not fit which model they are of, as far as it can be told.

    Args:
      path: Path of the weights, for the text of the error.
      weights: Arrays by name.
      model: Model that they were given to.

    Raises:
      InputError: instead of `Misfit`.
    """
    try:
        yield
    except Misfit as error:
        found = identify(weights)
        if found is None or any(_is_same(model, get_spec(name)) for name in found.names):
            raise
        name = found.names[0]
        raise InputError(
            f"{path} holds {found}, which is not the {type(model).__name__} it was given to: use "
            f"create_model({name!r}), or --model={name}."
        ) from error


def _is_same(model: Any, spec: ModelSpec) -> bool:
    """Returns whether a model has the widths and depths of a variant."""
    if spec.build is not type(model):
        return False
    for field in dataclasses.fields(spec.config):
        ours, theirs = getattr(model.config, field.name), getattr(spec.config, field.name)
        if isinstance(theirs, int | tuple) and not isinstance(theirs, bool) and ours != theirs:
            if field.name not in _OF_NO_SHAPE:
                return False
    return True
