"""Which of the places in a file are meant: the one whose names are those of the model's table."""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxvision.errors import InputError, shorten
from jaxvision.interop.containers import Place, is_array
from jaxvision.interop.rules import Rule, name_pattern
from jaxvision.interop.torch_pickle import Tensor

# What DistributedDataParallel and torch.compile put before every name, and Flax's programs.
_WRAPPERS = ("_orig_mod.", "module.", "opt/target/", "params/")
# Where training programs put the weights beside optimizer and epoch.
_USUAL = (
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "network",
    "module",
    "params",
    "weights",
)
_AVERAGED = re.compile(r"(.*_)?(ema|shadow|swa|averaged)(_.*)?")
_COUNTER = "n_averaged"  # of torch's AveragedModel
_MAX_PREFIX = 5  # parts before a name
# What pre-training puts beside an encoder.
_PRETRAINING = re.compile(r"mask_token|decoder_(embed|blocks|pos_embed|norm|pred)(\..*)?")
_MANY = 8  # names of another module that are not listed one by one


@dataclasses.dataclass(frozen=True)
class Table:
    """The names that a model has in one library.

    Attributes:
      rules: Table of rules.
      heads: Our paths of the classifiers.
      size: Number of arrays that the model needs.
    """

    rules: Sequence[Rule]
    heads: Sequence[str] = ()
    size: int = 0


@dataclasses.dataclass(frozen=True)
class Choice:
    """The weights that were chosen.

    Attributes:
      values: Arrays by name, without prefix; see `Place`.
      wrapper: Place of them, e.g. "model_ema" or "teacher.backbone"; None: the file's top.
      left_out: Names in the same place that belong to other modules, many together.
    """

    values: dict[str, Any]
    wrapper: str | None
    left_out: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Fit:
    """A place, and a prefix in it behind which names are known."""

    place: Place
    prefix: str
    known: int
    table: Table

    @property
    def parts(self) -> tuple[str, ...]:
        prefix = [] if self.prefix in _WRAPPERS else _split(self.prefix)
        return (*self.place.keys, *(part for part in prefix if f"{part}." not in _WRAPPERS))

    @property
    def label(self) -> str:
        return ".".join(self.parts) or "top"

    @property
    def wrapper(self) -> str | None:
        return self.label if self.parts else None

    @property
    def averaged(self) -> bool:
        counted = _COUNTER in self.place.values and self.prefix == "module."
        return counted or any(map(_AVERAGED.fullmatch, self.parts))

    def named(self, part: str) -> bool:
        """Returns whether a user means this place."""
        return part in self.parts or f"{self.label}.".startswith(f"{part}.")

    def values(self) -> dict[str, Any]:
        found = self.place.values.items()
        return {name[len(self.prefix) :]: x for name, x in found if name.startswith(self.prefix)}


def choose(
    places: Sequence[Place],
    tables: Sequence[Table],
    *,
    path: str | pathlib.Path,
    ema: bool = False,
    part: str | None = None,
) -> Choice:
    """Returns the weights that a model can use.

    Args:
      places: Places of weights in the file.
      tables: Tables of the model; none: the model is not known yet.
      path: Path of the file, for the text of an error.
      ema: Whether averaged weights are taken; False: only if there are no others.
      part: Name of the place, or of a part of it, where several fit; None: only one does.

    Raises:
      InputError: if several places fit, or none has the part or the averaged weights asked for.
    """
    fits = [fit for place in places for fit in _fits(place, tables)]
    most = max((fit.known for fit in fits), default=0)
    fits = _without_copies([fit for fit in fits if 2 * fit.known >= most])
    known = bool(fits)
    if not known:  # whatever is nearest: who assigns it says what is wrong
        fits = _usual(places)
    fit = _one(fits, path, ema=ema, part=part)
    if not known:
        return Choice(_strip(fit.values(), path), fit.wrapper)
    values, projector = _without_projector(fit)
    others = [name for name in fit.place.values if not name.startswith(fit.prefix)]
    others = [name for name in others if is_array(fit.place.values[name]) and name != _COUNTER]
    return Choice(values, fit.wrapper, (*_grouped(others), *projector))


def _fits(place: Place, tables: Sequence[Table]) -> list[_Fit]:
    """Returns the prefixes in a place behind which half of a model is."""
    fits = []
    names = [name for name, value in place.values.items() if is_array(value)]
    for table in tables:
        known = count_prefixes(names, name_pattern(table.rules))
        fits += [
            _Fit(place, prefix, count, table)
            for prefix, count in known.items()
            if 2 * count >= table.size
        ]
    fits.sort(key=lambda fit: (-fit.known, len(_split(fit.prefix))))
    kept: list[_Fit] = []
    for fit in fits:  # the same arrays under a longer or a shorter prefix are one choice
        if not any(_nested(fit.prefix, other.prefix) for other in kept):
            kept.append(fit)
    return kept


def count_prefixes(names: Iterable[str], pattern: re.Pattern[str]) -> collections.Counter[str]:
    """Returns how many names a table knows behind each prefix."""
    return collections.Counter(
        name[:start] for name in names for start in _starts(name) if pattern.fullmatch(name, start)
    )


def _nested(left: str, right: str) -> bool:
    return left.startswith(right) or right.startswith(left)


def _starts(name: str) -> list[int]:
    """Returns where the name itself may begin."""
    ends = [match.end() for match in re.finditer(r"[./]", name)]
    return [0, *ends[:_MAX_PREFIX]]


def _split(prefix: str) -> list[str]:
    return [part for part in re.split(r"[./]", prefix) if part]


def _usual(places: Sequence[Place]) -> list[_Fit]:
    """Returns the places that are usual for weights, or the largest ones."""
    usual = [place for place in places if place.keys and _is_usual(place.keys[-1])]
    usual = usual or list(places)
    most = max(len(place.values) for place in usual)
    nothing = Table(())
    return [_Fit(place, "", 0, nothing) for place in usual if 2 * len(place.values) >= most]


def _is_usual(key: str) -> bool:
    return key in _USUAL or _AVERAGED.fullmatch(key) is not None


def _without_copies(fits: list[_Fit]) -> list[_Fit]:
    """Returns the places, once where the same numbers are in the file under two names."""
    kept: list[_Fit] = []
    for fit in fits:
        if not any(_same(fit.values(), other.values()) for other in kept):
            kept.append(fit)
    return kept


def _same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Returns whether all is the same tensor of the same file, without reading it."""
    return left.keys() == right.keys() and all(
        isinstance(value, Tensor) and value == right[name] for name, value in left.items()
    )


def _one(fits: list[_Fit], path: Any, *, ema: bool, part: str | None) -> _Fit:
    """Returns the only place that is left of those that fit."""
    labels = ", ".join(repr(shorten(fit.label, 80)) for fit in fits[:5])
    if part is not None:
        fits = [fit for fit in fits if fit.named(part)]
        if not fits:
            raise InputError(f"{path} has no weights that fit in a part {part!r}, but in {labels}.")
    if ema:
        fits = [fit for fit in fits if fit.averaged]
        if not fits:
            raise InputError(
                f"{path} has no averaged weights under state_dict_ema or model_ema or the like: "
                "leave ema=True out."
            )
    elif part is None:
        fits = [fit for fit in fits if not fit.averaged] or fits
    if len(fits) > 1:
        last = fits[-1]
        example = next((p for p in reversed(last.parts) if _tells(p, fits)), last.label)
        raise InputError(
            f"{path} has weights that fit in {len(fits)} parts, {labels}: say which, e.g. "
            f'part="{shorten(example, 50)}" (--part, config.model.init_part).'
        )
    return fits[0]


def _tells(part: str, fits: list[_Fit]) -> bool:
    """Returns whether a part belongs to one place only."""
    return sum(fit.named(part) for fit in fits) == 1


def _without_projector(fit: _Fit) -> tuple[dict[str, Any], list[str]]:
    """Returns the weights without what pre-training had in the place of a classifier."""
    pattern = name_pattern(fit.table.rules)
    values = fit.values()
    kernels = [f"{head}/kernel" for head in fit.table.heads]
    heads = [rule.source for rule in fit.table.rules if rule.targets in kernels]
    others = tuple(head.removesuffix("weight") for head in heads if head not in values)
    taken = {
        name
        for name in values
        if not pattern.fullmatch(name) and (_PRETRAINING.fullmatch(name) or name.startswith(others))
    }
    kept = {name: value for name, value in values.items() if name not in taken}
    return kept, [fit.prefix + name for name in values if name in taken]


def _grouped(names: Iterable[str]) -> list[str]:
    """Returns names, those of a large module together."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name)
    return [
        text
        for group, each in groups.items()
        for text in (each if len(each) <= _MANY else [f"{group}.* ({len(each)} arrays)"])
    ]


def _strip(values: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """Returns the weights without the prefixes of wrapper modules."""
    stripped = {}
    for name, value in values.items():
        while name.startswith(_WRAPPERS):
            prefix = next(prefix for prefix in _WRAPPERS if name.startswith(prefix))
            name = name.removeprefix(prefix)
        if name == _COUNTER:
            continue
        if name in stripped:
            raise InputError(f"{path} holds {name!r} twice, with and without a prefix.")
        stripped[name] = value
    return stripped
