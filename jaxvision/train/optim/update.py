"""From a config to how a run updates its parameters: schedule, groups of them, optimizer."""

import re
import types
from collections.abc import Callable, Mapping
from typing import Any

import optax

from jaxvision.errors import InputError, check_choice
from jaxvision.train.optim.optimizer import make_optimizer
from jaxvision.train.optim.param_groups import Groups, ParamGroup, assign_groups
from jaxvision.train.optim.schedule import LENGTH_UNITS, length_in_steps, make_schedule
from jaxvision.train.optim.weight_average import Swa, make_swa, swa_schedule
from jaxvision.train.workdir import Config


def schedule_of(
    config: Config, *, total_steps: int, num_examples: int, own: Mapping[str, Any] | None = None
) -> optax.Schedule:
    """Returns the learning rate of each update.

    Args:
      config: see configs/common.py.
      total_steps: updates of the run.
      num_examples: of the training split.
      own: options of a rule in place of those of config.schedule.

    Raises:
      InputError: for a name, length or number that cannot work.
    """
    rate = _with_own(config.schedule, own or {})
    if own and rate.name == "plateau":
        raise InputError(
            "The schedule 'plateau' is one for all parameters: set --config.schedule.name=plateau, "
            "and give no rule of --config.optimizer.rules a schedule."
        )
    run = {"total_steps": total_steps, "num_examples": num_examples}
    length = _length_of("schedule", rate, config, **run)
    schedule = make_schedule(
        rate.name,
        learning_rate=config.optimizer.learning_rate,
        total_steps=total_steps,
        warmup_steps=length("warmup"),
        warmup_convention=rate.warmup_convention,
        warmup_factor=rate.warmup_factor,
        cooldown_steps=length("cooldown"),
        end_learning_rate=rate.end_learning_rate,
        step_steps=length("step"),
        step_factor=rate.step_factor,
        milestone_steps=length("milestone"),
        power=rate.power,
        restart_steps=length("restart"),
        restart_factor=rate.restart_factor,
        one_cycle_rise=rate.one_cycle_rise,
        one_cycle_anneal=rate.one_cycle_anneal,
        one_cycle_start_factor=rate.one_cycle_start_factor,
        one_cycle_end_factor=rate.one_cycle_end_factor,
    )
    swa = swa_of(config, **run)
    if swa is None or not config.swa.learning_rate:
        return schedule
    options = config.swa
    return swa_schedule(
        schedule,
        start=swa.start,
        learning_rate=options.learning_rate,
        anneal_steps=_length_of("swa", options, config, **run)("anneal"),
        curve=options.curve,
    )


def swa_of(config: Config, *, total_steps: int, num_examples: int) -> Swa | None:
    """Returns how a run averages its weights stochastically; None: not.

    Args:
      config: see configs/common.py.
      total_steps: updates of the run.
      num_examples: of the training split.

    Raises:
      InputError: for a length that cannot work.
    """
    options = config.swa
    length = _length_of("swa", options, config, total_steps=total_steps, num_examples=num_examples)
    start = length("start")
    if not start:
        return None
    if config.ema_decay:
        raise InputError(
            "A run keeps one average: leave --config.ema_decay or --config.swa.start_* out."
        )
    every = length("every")
    every = every or max(1, round(num_examples / config.batch_size))
    return make_swa(start, every, total_steps=total_steps)


def _length_of(
    group: str, options: Any, config: Config, *, total_steps: int, num_examples: int
) -> Callable[[str], Any]:
    """Returns the function from the name of a length to its updates, see `length_in_steps`."""

    def length(name: str) -> Any:
        given = {unit: getattr(options, f"{name}_{unit}") for unit in LENGTH_UNITS}
        return length_in_steps(
            name,
            **given,
            group=group,
            total_steps=total_steps,
            num_examples=num_examples,
            batch_size=config.batch_size,
        )

    return length


def _with_own(options: Config, own: Mapping[str, Any]) -> Any:
    """Returns the options of a schedule with some replaced; a length in its new unit only."""
    values = dict(options.items())
    for name, value in own.items():
        given = values.get(name)
        kind = int | float if isinstance(given, int | float) else type(given)
        if given is None or not isinstance(value, kind):
            raise InputError(
                "The schedule of a rule of --config.optimizer.rules must be a dict of options of "
                f"config.schedule with their values, got {name!r}: {value!r}."
            )
        length, _, unit = name.rpartition("_")
        if unit in LENGTH_UNITS:
            for other in LENGTH_UNITS:
                values[f"{length}_{other}"] = type(values[f"{length}_{other}"])()
        values[name] = value
    return types.SimpleNamespace(**values)


def groups_of(
    config: Config, params: Any, *, family: str, total_steps: int, num_examples: int
) -> dict[str, ParamGroup]:
    """Returns how each parameter is trained, by its path with one name for each block.

    Args:
      config: see configs/common.py.
      params: of the model, as arrays or shapes.
      family: of the image model.
      total_steps: updates of the run.
      num_examples: of the training split.

    Raises:
      InputError: for a rule, preset or timetable that cannot work.
    """
    options = config.optimizer
    timetable = []
    for entry in options.unfreeze:
        try:
            epoch, what = entry
            step = round(epoch * num_examples / config.batch_size)
            re.compile(what)
            good = 0 < step < total_steps
        except (TypeError, ValueError, OverflowError, re.error):
            good = False
        if not good:
            raise InputError(
                "Each of --config.optimizer.unfreeze must be (epoch inside the run of "
                f"{total_steps * config.batch_size / num_examples:.4g}, preset or regex of a "
                f"parameter path), got {entry!r}."
            )
        timetable.append((step, what))
    lengths = {"total_steps": total_steps, "num_examples": num_examples}
    return assign_groups(
        params,
        family=family,
        rules=tuple(_with_schedule(rule, config, lengths) for rule in options.rules),
        preset=options.preset,
        layer_decay=options.layer_decay,
        part_multipliers=options.part_multipliers,
        head_multiplier=options.head_multiplier,
        unfreeze=tuple(timetable),
    )


def _with_schedule(rule: Any, config: Config, lengths: dict[str, int]) -> Any:
    """Returns a rule with its schedule as a function; a malformed rule as it is."""
    try:
        pattern, fields = rule
        own = dict(fields["schedule"].items()) if "schedule" in fields else None
    except (TypeError, ValueError, AttributeError):
        return rule
    if own is None:
        return rule
    return pattern, dict(fields.items()) | {"schedule": schedule_of(config, **lengths, own=own)}


def freeze_encoder(groups: Groups) -> dict[str, ParamGroup]:
    """Returns the groups with the encoder of a captioner frozen for good, whatever they say.

    Its gradient is 0 by the model's own option, but weight decay would still move it.

    Raises:
      InputError: if a timetable would train it.
    """
    encoder = {name: group for name, group in groups.items() if name.startswith("encoder/")}
    if any(group.start_step for group in encoder.values()):
        raise InputError(
            "--config.optimizer.unfreeze cannot train the encoder under --config.model.kwargs."
            "freeze_encoder=True: leave freeze_encoder out, and freeze the encoder by "
            "--config.optimizer.rules until then."
        )
    frozen = ParamGroup("encoder, by freeze_encoder", start_step=None)
    return {**groups, **dict.fromkeys(encoder, frozen)}


def frozen_batch_norms(config: Config, groups: Groups) -> set[str]:
    """Returns the paths of what uses running statistics in training too, if it is a BatchNorm."""
    policy = config.model.freeze_batch_stats
    check_choice("model.freeze_batch_stats", policy, ("frozen", "all", "none"))
    return {
        name.removesuffix("/scale")
        for name, group in groups.items()
        if name.endswith("/scale")
        and (policy == "all" or (policy == "frozen" and group.start_step is None))
    }


def optimizer_of(
    config: Config, params: Any, *, schedule: optax.Schedule, groups: Groups
) -> optax.GradientTransformation:
    """Returns the optimizer of a run.

    Args:
      config: see configs/common.py.
      params: of the model, as arrays or shapes.
      schedule: of `schedule_of`.
      groups: of `groups_of`.

    Raises:
      InputError: for a name or number that cannot work.
    """
    options = config.optimizer
    return make_optimizer(
        params,
        name=options.name,
        schedule=schedule,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        nesterov=options.nesterov,
        b1=options.b1,
        b2=options.b2,
        eps=options.eps,
        clip_norm=options.clip_norm,
        clip_factor=options.clip_factor,
        groups=groups,
        with_rate_factor=config.schedule.name == "plateau",
    )
