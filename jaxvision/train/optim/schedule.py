"""Learning rate schedules: from the number of completed updates to a rate."""

import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxvision.errors import InputError
from jaxvision.options.length import RunLength
from jaxvision.options.schedule import ARRIVING, ScheduleOptions

logger = logging.getLogger(__name__)

# Where the warmup counts from: torch trainers end step s at (s + 1) / warmup, optax at s / warmup.
_WARMUP_OFFSETS = {"torch": 1, "optax": 0}


def make_schedule(
    options: ScheduleOptions, *, learning_rate: float, length: RunLength
) -> optax.Schedule:
    """Returns the function from a step to its learning rate; it may be jitted.

    A step is the number of updates already done, so the first update uses the rate of step 0. The
    rate is a float32 scalar, under JAX_ENABLE_X64 a float64 one.

    `warmup_cosine` (a half cosine), `cosine_restarts` (SGDR), `linear` and `polynomial` begin where
    the warmup ends and arrive at `end_learning_rate` after the last update; `step`, `multi_step`
    and `exponential` count from step 0, as timm and Goyal et al. do; `plateau` is constant here and
    multiplied by what `progress.ReduceOnPlateau` decides.

    Args:
      options: Options of the schedule: its name and its numbers.
      learning_rate: Peak of the schedule.
      length: Length of the run, warmup and cooldown included; where they leave nothing between
        them, each gets a tenth of it at most, and the log says so.

    Raises:
      InputError: if a number is out of range.

    Note:
      The warmup of `torch` goes by (step + 1) / warmup_steps, so that no update is lost: it equals
      LinearLR(1 / warmup, total_iters=warmup - 1) in a SequentialLR with the other scheduler (a
      ChainedScheduler for those that count from step 0). That of `optax` goes by step /
      warmup_steps and equals LinearLR(warmup_factor, total_iters=warmup) or
      `optax.warmup_cosine_decay_schedule`. `one_cycle` is torch's: it arrives one step earlier than
      optax's.

    Source: Loshchilov and Hutter 2017, SGDR, eq. 5; Goyal et al. 2017, section 2.2 (warmup); Smith
      and Topin 2018 (one-cycle).
    """

    def updates(name: str) -> Any:
        return length.updates(options, name, group="schedule")

    name, warmup_steps, cooldown_steps = options.name, updates("warmup"), updates("cooldown")
    warmup_steps, cooldown_steps = _fit_lengths(
        name, length.total_steps, warmup_steps, cooldown_steps
    )
    if learning_rate < 0:
        raise InputError(f"learning_rate must not be negative, got {learning_rate}.")
    peak, floor = learning_rate, options.end_learning_rate
    if (name in ARRIVING or cooldown_steps > 0) and not 0 <= floor <= peak:
        raise InputError(f"end_learning_rate must be in 0..{peak} (the peak), got {floor}.")
    end = length.total_steps - cooldown_steps
    if name == "warmup_cosine":
        curve = _falling(peak, floor, warmup_steps, end, _cosine)
    elif name in ("linear", "polynomial"):
        if not options.power > 0:
            raise InputError(f"schedule.power must be above 0, got {options.power}.")
        exponent = options.power if name == "polynomial" else 1.0
        curve = _falling(peak, floor, warmup_steps, end, lambda left: left**exponent)
    elif name == "cosine_restarts":
        first = updates("restart")
        curve = _restarts(peak, floor, warmup_steps, end, first, options.restart_factor)
    elif name == "one_cycle":
        start = peak * options.one_cycle_start_factor
        last = start * options.one_cycle_end_factor
        rise, anneal = options.one_cycle_rise, options.one_cycle_anneal
        curve = _one_cycle(peak, start, last, end, rise, anneal)
    else:
        curve = _drops(name, peak, updates("step"), options.step_factor, updates("milestone"))
    offset, warmup_factor = _WARMUP_OFFSETS[options.warmup_convention], options.warmup_factor

    def schedule(step) -> jax.Array:
        step = jnp.asarray(step)
        count = step.astype(jnp.result_type(float))
        rate = curve(jnp.minimum(step, end))
        if warmup_steps:
            done = jnp.minimum((count + offset) / warmup_steps, 1.0)
            rate = rate * (warmup_factor + (1 - warmup_factor) * done)
        if cooldown_steps:
            cooled = jnp.clip((count - end) / cooldown_steps, 0.0, 1.0)
            rate = rate * (1 - cooled) + floor * cooled
        return rate

    return schedule


def _fit_lengths(
    name: str, total_steps: int, warmup_steps: int, cooldown_steps: int
) -> tuple[int, int]:
    """Returns warmup and cooldown, or a tenth of the run where they leave nothing between them.

    So that a recipe card can be tried for a few steps.
    """
    if total_steps < 1:
        raise InputError(f"A run has at least one step, got a schedule of {total_steps} steps.")
    if name == "one_cycle" and warmup_steps:
        raise InputError(
            f"The schedule 'one_cycle' warms up by itself, got {warmup_steps} more warmup steps; "
            "set schedule.warmup_steps to 0 and see schedule.one_cycle_rise."
        )
    if warmup_steps + cooldown_steps < total_steps:
        return warmup_steps, cooldown_steps
    fitted = [min(steps, total_steps // 10) for steps in (warmup_steps, cooldown_steps)]
    logger.info(
        "A warmup of %s and a cooldown of %s updates do not fit into a run of %s: it gets %s and "
        "%s, at most a tenth each.",
        *(f"{steps:,}" for steps in (warmup_steps, cooldown_steps, total_steps, *fitted)),
    )
    return fitted[0], fitted[1]


def _cosine(left: jax.Array) -> jax.Array:
    """Returns the half cosine from 1 down to 0, for the share of it that is left."""
    # (1 + cos(pi (1 - x))) / 2 = sin^2(pi x / 2), which keeps its digits near the end.
    return jnp.sin(math.pi / 2 * left) ** 2


def _share(part: jax.Array, whole: Any) -> jax.Array:
    """Returns part / whole in the precision of rates."""
    return part.astype(jnp.result_type(float)) / whole


def _falling(peak: float, floor: float, start: int, end: int, fall: Callable) -> Callable:
    """Returns the curve from the peak at `start` to the floor at `end`."""

    def curve(step: jax.Array) -> jax.Array:
        left = _share(jnp.clip(end - step, 0, end - start), end - start)
        return floor + (peak - floor) * fall(left)

    return curve


def _restarts(peak: float, floor: float, start: int, end: int, length: int, factor: int):
    """Returns the curve of cosines that begin anew, each `factor` times as long as the last."""
    if length < 1 or factor < 1:
        raise InputError(
            "The schedule 'cosine_restarts' needs restart_steps and restart_factor of at least 1, "
            f"got {length} and {factor}; set schedule.restart_epochs."
        )
    starts, lengths = [start], [length]
    while factor > 1 and starts[-1] + lengths[-1] < end:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * factor)

    def curve(step: jax.Array) -> jax.Array:
        step = jnp.maximum(step, start)
        if factor == 1:
            done, span = (step - start) % length, jnp.asarray(length)
        else:
            cycle = jnp.sum(step >= jnp.asarray(starts)) - 1
            done, span = step - jnp.asarray(starts)[cycle], jnp.asarray(lengths)[cycle]
        return floor + (peak - floor) * _cosine(_share(span - done, span))

    return curve


def _one_cycle(peak: float, start: float, last: float, end: int, rise: float, anneal: str):
    """Returns the curve that rises to the peak and falls below its start, as torch's OneCycleLR."""
    top = rise * end - 1  # torch counts both phases from 0, and may put the peak between two steps
    if not 0 < top < end - 1:
        raise InputError(
            "schedule.one_cycle_rise must leave an update before and after the peak, got "
            f"{rise} of {end} steps."
        )
    fall = _cosine if anneal == "cosine" else lambda left: left

    def curve(step: jax.Array) -> jax.Array:
        rising = jnp.clip(_share(step, top), 0.0, 1.0)
        # What is left, from the end: 1 - share would lose its digits there.
        left = jnp.clip(_share(end - 1 - step, end - 1 - top), 0.0, 1.0)
        up = peak + (start - peak) * fall(1 - rising)
        return jnp.where(_share(step, 1) <= top, up, last + (peak - last) * fall(left))

    return curve


def _drops(name: str, peak: float, every: int, factor: float, milestones: tuple[int, ...]):
    """Returns the curve of a rate that is multiplied by a factor again and again, or never."""
    if name in ("step", "exponential") and (every < 1 or factor <= 0):
        raise InputError(
            f"The schedule '{name}' needs step_steps of at least 1 and a positive step_factor, got "
            f"{every} and {factor}; set schedule.step_epochs."
        )
    rising = all(a < b for a, b in zip((0, *milestones), milestones, strict=False))
    if name == "multi_step" and not (milestones and rising):
        raise InputError(
            "The schedule 'multi_step' needs rising milestones above 0, got "
            f"{milestones}; set schedule.milestone_epochs."
        )

    def curve(step: jax.Array) -> jax.Array:
        if name == "step":
            drops = step // every
        elif name == "exponential":
            drops = _share(step, every)
        elif name == "multi_step":
            drops = jnp.sum(step >= jnp.asarray(milestones))
        else:
            drops = jnp.zeros_like(step)
        return peak * jnp.asarray(factor, jnp.result_type(float)) ** _share(drops, 1)

    return curve
