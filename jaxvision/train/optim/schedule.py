"""Learning rate schedules: from the number of completed updates to a rate."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxvision.errors import InputError, check_choice

# Those that run from the end of the warmup to the cooldown and arrive at `end_learning_rate`.
_ARRIVING = ("warmup_cosine", "cosine_restarts", "linear", "polynomial")
_DROPPING = ("exponential", "step", "multi_step")
# Of a plateau the host lowers the rate, see progress.py; without that it is constant.
SCHEDULES = (*_ARRIVING, "one_cycle", *_DROPPING, "plateau", "constant")
# Where the warmup counts from: torch trainers end step s at (s + 1) / warmup, optax at s / warmup.
WARMUP_OFFSETS = {"torch": 1, "optax": 0}
# An option of a length is <name>_<unit>; see `length_in_steps`.
LENGTH_UNITS = ("steps", "epochs", "examples", "percent")


def make_schedule(
    name: str,
    *,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    warmup_convention: str = "torch",
    warmup_factor: float = 0.0,
    cooldown_steps: int = 0,
    end_learning_rate: float = 0.0,
    step_steps: int = 0,
    step_factor: float = 0.1,
    milestone_steps: tuple[int, ...] = (),
    power: float = 1.0,
    restart_steps: int = 0,
    restart_factor: int = 1,
    one_cycle_rise: float = 0.3,
    one_cycle_anneal: str = "cosine",
    one_cycle_start_factor: float = 0.04,
    one_cycle_end_factor: float = 1e-4,
) -> optax.Schedule:
    """Returns the function from a step to its learning rate; it may be jitted.

    A step is the number of updates already done, so the first update uses the rate of step 0. The
    rate is a float32 scalar, under JAX_ENABLE_X64 a float64 one.

    Args:
      name: `warmup_cosine` (a half cosine), `cosine_restarts` (SGDR), `linear` or `polynomial`,
        which all begin where the warmup ends; `step`, `multi_step` and `exponential`, which count
        from step 0, as timm and Goyal et al. do; `one_cycle`; `constant`; or `plateau`, which is
        the same and multiplied by what `progress.ReduceOnPlateau` decides.
      learning_rate: the peak.
      total_steps: updates of the whole run, warmup and cooldown included; the rate of that step,
        which no update uses, is `end_learning_rate` where the schedule arrives anywhere.
      warmup_steps: updates that the rate rises linearly in; 0 starts at the peak.
      warmup_convention: `torch` warms up by (step + 1) / warmup_steps, so that no update is lost;
        `optax` by step / warmup_steps, so that the first update has the rate of `warmup_factor`.
      warmup_factor: share of the peak that the warmup starts from.
      cooldown_steps: last updates, in which the rate goes linearly to `end_learning_rate`.
      end_learning_rate: where all but the stepwise and constant schedules end, and the cooldown.
      step_steps: updates between two drops of `step`, or for one factor of `exponential`.
      step_factor: what each drop multiplies the rate by.
      milestone_steps: the updates before which `multi_step` drops, rising.
      power: of `polynomial`.
      restart_steps: length of the first cosine of `cosine_restarts`.
      restart_factor: how much longer each cosine is than the one before.
      one_cycle_rise: share of the run in which `one_cycle` rises to the peak.
      one_cycle_anneal: its curve, `cosine` or `linear`.
      one_cycle_start_factor: share of the peak that it starts from.
      one_cycle_end_factor: share of that start which it ends at.

    Raises:
      InputError: if a name is unknown, warmup and cooldown leave nothing between them or a number
        is out of range.

    Note:
      `torch` equals LinearLR(1 / warmup, total_iters=warmup - 1) in a SequentialLR with the other
      scheduler (a ChainedScheduler for those that count from step 0), and `optax` equals
      LinearLR(warmup_factor, total_iters=warmup) or `optax.warmup_cosine_decay_schedule`.
      `one_cycle` is torch's: it arrives one step earlier than optax's.

    Source: Loshchilov and Hutter 2017, SGDR, eq. 5; Goyal et al. 2017, section 2.2 (warmup); Smith
      and Topin 2018 (one-cycle).
    """
    check_choice("schedule.name", name, SCHEDULES)
    check_choice("schedule.warmup_convention", warmup_convention, tuple(WARMUP_OFFSETS))
    _check_lengths(name, total_steps, warmup_steps, cooldown_steps)
    if learning_rate < 0:
        raise InputError(f"learning_rate must not be negative, got {learning_rate}.")
    arrives = name in _ARRIVING or cooldown_steps > 0
    if arrives and not 0 <= end_learning_rate <= learning_rate:
        raise InputError(
            f"end_learning_rate must be in 0..{learning_rate} (the peak), got {end_learning_rate}."
        )
    end = total_steps - cooldown_steps
    peak, floor = learning_rate, end_learning_rate
    if name == "warmup_cosine":
        curve = _falling(peak, floor, warmup_steps, end, _cosine)
    elif name in ("linear", "polynomial"):
        if not power > 0:
            raise InputError(f"schedule.power must be above 0, got {power}.")
        exponent = power if name == "polynomial" else 1.0
        curve = _falling(peak, floor, warmup_steps, end, lambda left: left**exponent)
    elif name == "cosine_restarts":
        curve = _restarts(peak, floor, warmup_steps, end, restart_steps, restart_factor)
    elif name == "one_cycle":
        start, last = peak * one_cycle_start_factor, one_cycle_end_factor
        curve = _one_cycle(peak, start, start * last, end, one_cycle_rise, one_cycle_anneal)
    else:
        curve = _drops(name, peak, step_steps, step_factor, milestone_steps)

    def schedule(step) -> jax.Array:
        step = jnp.asarray(step)
        count = step.astype(jnp.result_type(float))
        rate = curve(jnp.minimum(step, end))
        if warmup_steps:
            done = jnp.minimum((count + WARMUP_OFFSETS[warmup_convention]) / warmup_steps, 1.0)
            rate = rate * (warmup_factor + (1 - warmup_factor) * done)
        if cooldown_steps:
            cooled = jnp.clip((count - end) / cooldown_steps, 0.0, 1.0)
            rate = rate * (1 - cooled) + floor * cooled
        return rate

    return schedule


def length_in_steps(
    name: str,
    *,
    steps: Any,
    epochs: Any,
    examples: Any,
    percent: Any,
    total_steps: int,
    num_examples: int,
    batch_size: int,
    group: str = "schedule",
) -> Any:
    """Returns a length of the run in updates, at least 1 if it is given at all.

    It is given in one unit, as a number or as a tuple of them; 0 or () in the others.

    Args:
      name: of the length, for messages.
      steps: updates.
      epochs: passes over the training split.
      examples: training examples seen.
      percent: of the run.
      total_steps: updates of the run.
      num_examples: of the training split.
      batch_size: examples of one update.
      group: of the options, for messages.

    Returns:
      The length as updates: a whole number or a tuple of them; 0 or () if it is not given.

    Raises:
      InputError: if it is given in two units, or as something else than numbers above 0.
    """
    steps_of = {
        "steps": 1.0,
        "epochs": num_examples / batch_size,
        "examples": 1 / batch_size,
        "percent": total_steps / 100,
    }
    values = {"steps": steps, "epochs": epochs, "examples": examples, "percent": percent}
    given = {unit: value for unit, value in values.items() if value}
    if len(given) > 1:
        listing = " and ".join(f"{name}_{unit}={value}" for unit, value in given.items())
        raise InputError(f"Give {group}.{name}_* in one unit, got {listing}; set the others to 0.")
    if not given:
        return steps
    ((unit, value),) = given.items()
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(x, int | float) and 0 < x < math.inf for x in numbers):
        raise InputError(f"{group}.{name}_{unit} must be 0 (off) or above, got {value}.")
    updates = tuple(max(1, round(x * steps_of[unit])) for x in numbers)
    return updates if isinstance(value, tuple) else updates[0]


def _check_lengths(name: str, total_steps: int, warmup_steps: int, cooldown_steps: int) -> None:
    if not 0 <= warmup_steps < total_steps:
        raise InputError(
            f"The warmup must be shorter than the run, got {warmup_steps} warmup steps of "
            f"{total_steps} steps; lower schedule.warmup_steps or train longer."
        )
    if not 0 <= cooldown_steps < total_steps - warmup_steps:
        raise InputError(
            f"Warmup and cooldown must be shorter than the run, got {warmup_steps} and "
            f"{cooldown_steps} of {total_steps} steps; lower schedule.cooldown_steps."
        )
    if name == "one_cycle" and warmup_steps:
        raise InputError(
            f"The schedule 'one_cycle' warms up by itself, got {warmup_steps} more warmup steps; "
            "set schedule.warmup_steps to 0 and see schedule.one_cycle_rise."
        )


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
    check_choice("schedule.one_cycle_anneal", anneal, ("cosine", "linear"))
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
    if name == "multi_step" and factor <= 0:
        raise InputError(f"The schedule 'multi_step' needs a positive step_factor, got {factor}.")
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
