"""From a config to how a run updates its parameters: schedule, groups of them, optimizer."""

import functools
import re
from typing import Any

import optax

from jaxvision.errors import InputError, check_choice
from jaxvision.train.optimizer import make_optimizer
from jaxvision.train.param_groups import Groups, ParamGroup, assign_groups
from jaxvision.train.schedule import length_in_steps, make_schedule
from jaxvision.train.workdir import Config


def schedule_of(config: Config, *, total_steps: int, num_examples: int) -> optax.Schedule:
    """Returns the learning rate of each update.

    Args:
      config: see configs/common.py.
      total_steps: updates of the run.
      num_examples: of the training split.

    Raises:
      InputError: for a name, length or number that cannot work.
    """
    rate = config.schedule
    length = functools.partial(
        length_in_steps,
        total_steps=total_steps,
        num_examples=num_examples,
        batch_size=config.batch_size,
    )
    return make_schedule(
        rate.name,
        learning_rate=config.optimizer.learning_rate,
        total_steps=total_steps,
        warmup_steps=length(
            "warmup",
            steps=rate.warmup_steps,
            epochs=rate.warmup_epochs,
            examples=rate.warmup_examples,
            percent=rate.warmup_percent,
        ),
        warmup_convention=rate.warmup_convention,
        warmup_factor=rate.warmup_factor,
        cooldown_steps=length(
            "cooldown",
            steps=rate.cooldown_steps,
            epochs=rate.cooldown_epochs,
            examples=rate.cooldown_examples,
            percent=rate.cooldown_percent,
        ),
        end_learning_rate=rate.end_learning_rate,
        step_steps=length(
            "step",
            steps=rate.step_steps,
            epochs=rate.step_epochs,
            examples=rate.step_examples,
            percent=rate.step_percent,
        ),
        step_factor=rate.step_factor,
        milestone_steps=length(
            "milestone",
            steps=rate.milestone_steps,
            epochs=rate.milestone_epochs,
            examples=rate.milestone_examples,
            percent=rate.milestone_percent,
        ),
        power=rate.power,
        restart_steps=length(
            "restart",
            steps=rate.restart_steps,
            epochs=rate.restart_epochs,
            examples=rate.restart_examples,
            percent=rate.restart_percent,
        ),
        restart_factor=rate.restart_factor,
        one_cycle_rise=rate.one_cycle_rise,
        one_cycle_anneal=rate.one_cycle_anneal,
        one_cycle_start_factor=rate.one_cycle_start_factor,
        one_cycle_end_factor=rate.one_cycle_end_factor,
    )


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
    return assign_groups(
        params,
        family=family,
        rules=options.rules,
        preset=options.preset,
        layer_decay=options.layer_decay,
        part_multipliers=options.part_multipliers,
        head_multiplier=options.head_multiplier,
        unfreeze=tuple(timetable),
    )


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
    )
