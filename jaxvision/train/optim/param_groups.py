"""Which parameters are trained, how fast, and from when: rules by path, presets, layer decay."""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import optax

from jaxvision.errors import InputError, check_choice
from jaxvision.layers.adapter import ADAPTER
from jaxvision.layers.block_stack import unstack_blocks
from jaxvision.models.image_model import LayerGroups
from jaxvision.options.adapter import KINDS as ADAPTER_KINDS
from jaxvision.options.optimizer import PRESETS
from jaxvision.train.optim.layer_depth import is_head, layer_numbers, unit_numbers
from jaxvision.train.sharding import path_name

# Share of the units (stages, or blocks) that is trained, counted from the head.
_TRAINED = {"late": 1 / 4, "half": 1 / 2, "most": 3 / 4}
_NOTHING = "(?!)"
# Regex of the parameters that are trained beside the head.
_BESIDE_HEAD = {
    "head": _NOTHING,
    "lp_ft": _NOTHING,
    "bitfit": "/bias$",
    **dict.fromkeys(ADAPTER_KINDS, f"/{ADAPTER}/"),
}
LOW_LEARNING_RATE = 0.1  # of the trunk under full_low_lr, as a share of the head's
_FIELDS = {"frozen": bool, "learning_rate": float, "weight_decay": float, "schedule": Callable}


@dataclasses.dataclass(frozen=True)
class ParamGroup:
    """How the parameters of a group are trained.

    Attributes:
      name: Name of the group in the table: what put its parameters together.
      learning_rate: Multiplier of the learning rate.
      weight_decay: Multiplier of the weight decay.
      start_step: Number of updates before which the parameters are frozen; None: they are frozen
        for good.
      schedule: Learning rate of the group at each update of the run; None: that of the run.
    """

    name: str = "all others"
    learning_rate: float = 1.0
    weight_decay: float = 1.0
    start_step: int | None = 0
    schedule: optax.Schedule | None = None


Groups = Mapping[str, ParamGroup]


def param_names(params: Any) -> dict[str, Any]:
    """Returns the parameters as {path: shape}, one for each block, however the blocks are run."""
    abstract = jax.eval_shape(unstack_blocks, params)
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(abstract)}


def assign_groups(
    params: Any,
    *,
    layer_groups: LayerGroups,
    rules: tuple = (),
    preset: str = "full",
    layer_decay: float = 1.0,
    part_multipliers: tuple = (),
    head_multiplier: float = 1.0,
    unfreeze: tuple[tuple[int, str], ...] = (),
) -> dict[str, ParamGroup]:
    """Returns the group of every parameter, by its path with one name for each block.

    The first rule whose regex is found in the path decides whether a parameter is frozen, and its
    multipliers; the preset decides about those that no rule matches. The other multipliers come on
    top of either.

    Args:
      params: Nested dict of arrays or shapes.
      layer_groups: Places of the parameters between image and head, see `layer_groups_of`.
      rules: Rules ((regex, dict(frozen=..., learning_rate=..., weight_decay=..., schedule=...)),
        ...), each field optional: not frozen, 1, 1 and the schedule of the run.
      preset: Name of the preset that says what is trained: `head` trains the head alone; `late`,
        `half` and `most` also the last quarter, half and three quarters of the stages (of the
        blocks where there are no stages) and all that follows them; `full` everything;
        `full_low_lr` the trunk at a tenth of the head's rate; `bitfit` head and biases; `lora` and
        `ia3` head and adapters; `lp_ft` what `head` does, until the timetable goes on.
      layer_decay: Multiplier of each layer relative to the one behind it, see `layer_numbers`.
      part_multipliers: Multipliers of equal parts of the trunk, from the first on; the stem belongs
        to the first part.
      head_multiplier: Multiplier of the head.
      unfreeze: Timetable ((step, preset or regex), ...): what is frozen and matches is trained from
        that step on.

    Raises:
      InputError: if a rule or an entry is malformed or does nothing, or if nothing is trained.

    Source: Clark et al. 2020 and Bao et al. 2022, BEiT (layer decay); Howard and Ruder 2018, ULMFiT
      (discriminative rates, gradual unfreezing).
    """
    names = tuple(param_names(params))
    check_choice("optimizer.preset", preset, PRESETS)
    for rule in rules:
        _check_rule(rule)
    groups = _by_rules(names, rules, preset, layer_groups)
    factors = _multipliers(names, layer_groups, layer_decay, part_multipliers, head_multiplier)
    for name, (label, factor) in factors.items():
        group = groups[name]
        groups[name] = dataclasses.replace(
            group, name=group.name + label, learning_rate=group.learning_rate * factor
        )
    groups = _by_timetable(groups, unfreeze, layer_groups)
    if all(group.start_step is None for group in groups.values()):
        raise InputError(
            "Every parameter is frozen: let a rule of --config.optimizer.rules or the preset train "
            "some, or give --config.optimizer.unfreeze."
        )
    return groups


def _check_rule(rule: Any) -> None:
    try:
        pattern, fields = rule
        re.compile(pattern)
        values = dict(fields.items())
        good = values.keys() <= _FIELDS.keys() and all(
            isinstance(value, _FIELDS[name])
            if _FIELDS[name] is not float
            else isinstance(value, int | float) and 0 <= value < math.inf
            for name, value in values.items()
        )
    except (TypeError, ValueError, AttributeError, re.error):
        good = False
    if not good:
        raise InputError(
            "Each of --config.optimizer.rules must be (regex of a parameter path, dict of frozen "
            "(True or False), learning_rate and weight_decay (multipliers), and schedule (dict of "
            f"options of config.schedule)), got {rule!r}."
        )


def _by_rules(
    names: tuple[str, ...], rules: tuple, preset: str, layer_groups: LayerGroups
) -> dict[str, ParamGroup]:
    """Returns the groups by rules and preset."""
    groups = {}
    for pattern, fields in rules:
        matching = matching_names(pattern, names, option="optimizer.rules")
        mine = [name for name in matching if name not in groups]
        if not mine:
            raise InputError(
                f"The rule {pattern!r} of --config.optimizer.rules decides nothing: earlier rules "
                f"match all of its {len(matching)} parameters; put it before them or delete it."
            )
        values = dict(fields.items())
        start = None if values.pop("frozen", False) else 0
        own = values.pop("schedule", None)
        label = f"rule {pattern!r}" + ("" if own is None else ", own schedule")
        numbers = {field: float(value) for field, value in values.items()}
        group = ParamGroup(label, **numbers, start_step=start, schedule=own)
        groups |= dict.fromkeys(mine, group)
    trained, slow = set(_preset_names(preset, names, layer_groups)), ParamGroup()
    if preset == "full_low_lr":
        slow = ParamGroup(f"preset {preset!r}", learning_rate=LOW_LEARNING_RATE)
    head = is_head(names)
    for name in names:
        other = ParamGroup(f"preset {preset!r}", start_step=None)
        group = other if name not in trained else ParamGroup() if head[name] else slow
        groups.setdefault(name, group)
    return groups


def matching_names(pattern: str, names: Iterable[str], *, option: str) -> list[str]:
    """Returns the names that a regex is found in.

    Raises:
      InputError: if it is found in none; the message names the nearest.
    """
    names = tuple(names)
    matching = [name for name in names if re.search(pattern, name)]
    if not matching:
        nearest = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)[0]
        raise InputError(
            f"{pattern!r} of --config.{option} matches no parameter; the nearest is {nearest!r}."
        )
    return matching


def _preset_names(preset: str, names: tuple[str, ...], layer_groups: LayerGroups) -> list[str]:
    """Returns what a preset trains."""
    if preset in _BESIDE_HEAD:
        head, beside = is_head(names), re.compile(_BESIDE_HEAD[preset])
        return [name for name in names if head[name] or beside.search(name)]
    if preset not in _TRAINED:
        return list(names)
    units, count = unit_numbers(names, layer_groups)
    first = count - math.ceil(count * _TRAINED[preset])
    return [name for name in names if units[name] >= first]


def _multipliers(
    names: tuple[str, ...],
    layer_groups: LayerGroups,
    layer_decay: float,
    part_multipliers: tuple,
    head_multiplier: float,
) -> dict[str, tuple[str, float]]:
    """Returns what the position of a parameter does to its learning rate, and how to call it."""
    bad = [x for x in part_multipliers if not (isinstance(x, int | float) and 0 <= x < math.inf)]
    if bad:
        raise InputError(
            "--config.optimizer.part_multipliers must be numbers of at least 0, got "
            f"{part_multipliers}."
        )
    layers = layer_numbers(names, layer_groups)
    units, count = unit_numbers(names, layer_groups)
    last, heads, parts = max(layers.values()), is_head(names), len(part_multipliers)

    def of(name: str) -> tuple[str, float]:
        label, factor = "", 1.0
        if layer_decay != 1.0:
            label += f", layer {layers[name]} of 0..{last}"
            factor *= layer_decay ** (last - layers[name])
        if heads[name]:
            return label, factor * head_multiplier
        if parts:
            unit = min(max(units[name], 0), max(count - 1, 0))
            part = unit * parts // max(count, 1)
            label += f", part {part + 1} of {parts}"
            factor *= part_multipliers[part]
        return label, factor

    return {name: of(name) for name in names}


def _by_timetable(
    groups: dict[str, ParamGroup], unfreeze: tuple, layer_groups: LayerGroups
) -> dict[str, ParamGroup]:
    """Returns the groups with the first step that each frozen parameter is trained from."""
    names = tuple(groups)
    result = dict(groups)
    for step, what in sorted(unfreeze):
        if what in PRESETS:
            matching = _preset_names(what, names, layer_groups)
        else:
            matching = matching_names(what, names, option="optimizer.unfreeze")
        frozen = [name for name in matching if result[name].start_step is None]
        if not frozen:
            raise InputError(
                f"{what!r} of --config.optimizer.unfreeze unfreezes nothing, as all that it "
                "matches is trained by then; freeze it by --config.optimizer.preset or rules."
            )
        for name in frozen:
            group = result[name]
            result[name] = dataclasses.replace(
                group, name=f"{group.name}, unfrozen by {what!r}", start_step=step
            )
    return result
