"""From a config to how a run updates its parameters: the schedule and the optimizer."""

import functools
from typing import Any

import optax

from jaxvision.train.optimizer import make_optimizer
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


def optimizer_of(
    config: Config, params: Any, *, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Returns the optimizer of a run.

    Args:
      config: see configs/common.py.
      params: of the model, as arrays or shapes.
      schedule: of `schedule_of`.

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
    )
