"""From options to how a run updates its parameters: schedule, average of the weights, groups."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import optax

from jaxvision.errors import InputError
from jaxvision.models.image_model import LayerGroups
from jaxvision.options.length import RunLength
from jaxvision.options.optimizer import OptimizerOptions
from jaxvision.options.options import Options
from jaxvision.train.optim.param_groups import Groups, ParamGroup, assign_groups
from jaxvision.train.optim.schedule import make_schedule
from jaxvision.train.optim.weight_average import (
    Average,
    Ema,
    Swa,
    make_schedule_free,
    make_swa,
    swa_schedule,
)


def run_schedule(
    options: Options, length: RunLength, *, own: Mapping[str, Any] | None = None
) -> optax.Schedule:
    """Returns the learning rate of each update of a run.

    Args:
      options: Options of the run.
      length: Length of the run.
      own: Options of a rule's own schedule, in place of those of config.schedule.

    Raises:
      InputError: for a name, length or number that cannot work.
    """
    rate = options.schedule.with_own(own) if own else options.schedule
    if own and rate.is_plateau:
        raise InputError(
            "The schedule 'plateau' is one for all parameters: set --config.schedule.name=plateau, "
            "and give no rule of --config.optimizer.rules a schedule."
        )
    if own and (options.optimizer.is_schedule_free or options.optimizer.name == "prodigy"):
        raise InputError(
            f"--config.optimizer.name={options.optimizer.name} has one schedule for everything: "
            "give no rule of --config.optimizer.rules a schedule."
        )
    schedule = make_schedule(rate, learning_rate=options.optimizer.learning_rate, length=length)
    average = run_average(options, length)
    if not isinstance(average, Swa) or not options.swa.learning_rate:
        return schedule
    return swa_schedule(
        schedule,
        start=average.start,
        learning_rate=options.swa.learning_rate,
        anneal_steps=length.updates(options.swa, "anneal", group="swa"),
        curve=options.swa.curve,
    )


def run_average(options: Options, length: RunLength) -> Average | None:
    """Returns how a run averages its weights; None: not at all.

    Args:
      options: Options of the run.
      length: Length of the run.

    Raises:
      InputError: for a length that cannot work.
    """
    optimizer = options.optimizer
    if optimizer.is_schedule_free:
        schedule = make_schedule(
            options.schedule, learning_rate=optimizer.learning_rate, length=length
        )
        rising = length.updates(options.schedule, "warmup", group="schedule")
        return make_schedule_free(optimizer.averaged_share, schedule, rising)
    start = length.updates(options.swa, "start", group="swa")
    if start:
        every = length.updates(options.swa, "every", group="swa")
        return make_swa(start, every or max(1, length.step_of(1)), total_steps=length.total_steps)
    return Ema(options.ema_decay, options.ema_warmup) if options.ema_decay else None


def run_groups(
    options: Options, params: Any, *, layer_groups: LayerGroups, length: RunLength
) -> dict[str, ParamGroup]:
    """Returns how each parameter is trained, by its path with one name for each block.

    Args:
      options: Options of the run.
      params: Parameters of the model, as arrays or shapes.
      layer_groups: Places of the parameters between image and head, see `layer_groups_of`.
      length: Length of the run.

    Raises:
      InputError: for a rule, preset or timetable that cannot work.
    """
    optimizer = options.optimizer
    return assign_groups(
        params,
        layer_groups=layer_groups,
        rules=tuple(_with_schedule(rule, options, length) for rule in optimizer.rules),
        preset=optimizer.preset,
        layer_decay=optimizer.layer_decay,
        part_multipliers=optimizer.part_multipliers,
        head_multiplier=optimizer.head_multiplier,
        unfreeze=_timetable(optimizer, length),
    )


def _timetable(options: OptimizerOptions, length: RunLength) -> tuple[tuple[int, str], ...]:
    """Returns `unfreeze` in updates, with what the preset says.

    Source: Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features (probe, then fine-tune).
    """
    timetable = []
    for entry in options.unfreeze:
        try:
            epoch, what = entry
            step = length.step_of(epoch)
            re.compile(what)
            good = 0 < step < length.total_steps
        except (TypeError, ValueError, OverflowError, re.error):
            good = False
        if not good:
            raise InputError(
                "Each of --config.optimizer.unfreeze must be (epoch inside the run of "
                f"{length.total_epochs:.4g}, preset or regex of a parameter path), got {entry!r}."
            )
        timetable.append((step, what))
    if options.preset == "lp_ft":
        timetable.append((max(1, length.total_steps // 2), "full"))
    return tuple(timetable)


def _with_schedule(rule: Any, options: Options, length: RunLength) -> Any:
    """Returns a rule with its schedule as a function; a malformed rule as it is."""
    try:
        pattern, fields = rule
        own = dict(fields["schedule"].items()) if "schedule" in fields else None
    except (TypeError, ValueError, AttributeError):
        return rule
    if own is None:
        return rule
    return pattern, dict(fields.items()) | {"schedule": run_schedule(options, length, own=own)}


def freeze_for_good(groups: Groups, prefixes: Iterable[str]) -> dict[str, ParamGroup]:
    """Returns the groups with what the model itself freezes frozen for good, whatever they say.

    Its gradient is 0 by the model's own option, but weight decay would still move it.

    Args:
      groups: Groups of all parameters.
      prefixes: Prefixes of the paths of what is frozen, such as "encoder/".

    Raises:
      InputError: if a timetable would train it.
    """
    prefixes = tuple(prefixes)
    mine = {name: group for name, group in groups.items() if name.startswith(prefixes)}
    if any(group.start_step for group in mine.values()):
        raise InputError(
            "--config.optimizer.unfreeze cannot train the encoder under --config.model.kwargs."
            "freeze_encoder=True: leave freeze_encoder out, and freeze the encoder by "
            "--config.optimizer.rules until then."
        )
    frozen = ParamGroup("encoder, by freeze_encoder", start_step=None)
    return {**groups, **dict.fromkeys(mine, frozen)}


def frozen_batch_norms(policy: str, groups: Groups) -> set[str]:
    """Returns the paths of what uses running statistics in training too, if it is a BatchNorm.

    Args:
      policy: Value of config.model.freeze_batch_stats.
      groups: Groups of all parameters.
    """
    decisive = {
        name.removesuffix(part): group
        for part in ("/bias", "/scale")  # where there is one, the scale decides
        for name, group in groups.items()
        if name.endswith(part)
    }
    return {
        path
        for path, group in decisive.items()
        if policy == "all" or (policy == "frozen" and group.start_step is None)
    }
