"""Learning rate schedules: from the number of completed updates to a rate."""

import math

import jax
import jax.numpy as jnp
import optax

from jaxvision.errors import InputError, check_choice

SCHEDULES = ("warmup_cosine", "step", "constant")
# Where the warmup counts from: torch trainers end step s at (s + 1) / warmup, optax at s / warmup.
WARMUP_OFFSETS = {"torch": 1, "optax": 0}


def make_schedule(
    name: str,
    *,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    warmup_convention: str = "torch",
    end_learning_rate: float = 0.0,
    step_steps: int = 0,
    step_factor: float = 0.1,
) -> optax.Schedule:
    """Returns the function from a step to its learning rate, a float32 scalar; it may be jitted.

    A step is the number of updates already done, so the first update uses the rate of step 0.

    Args:
      name: `warmup_cosine` (a half cosine from the end of the warmup to `total_steps`), `step`
        (drops counted from step 0, as timm and Goyal et al. count them) or `constant`. All three
        start with a linear warmup.
      learning_rate: the peak.
      total_steps: updates of the whole run, the warmup included; the rate of that step, which no
        update uses, is `end_learning_rate`.
      warmup_steps: updates; 0 starts at the peak.
      warmup_convention: `torch` warms up by (step + 1) / warmup_steps, so that no update is lost;
        `optax` by step / warmup_steps, so that the first update has rate 0.
      end_learning_rate: where the cosine ends.
      step_steps: for `step`, updates between two drops.
      step_factor: for `step`, what each drop multiplies the rate by.

    Raises:
      InputError: if a name is unknown, the warmup is as long as the run or a number is out of
        range.

    Note:
      `torch` equals LinearLR(1 / warmup, total_iters=warmup - 1) followed by CosineAnnealingLR, and
      `optax` equals `optax.warmup_cosine_decay_schedule`.

    Source: Loshchilov and Hutter 2017, SGDR, eq. 5; Goyal et al. 2017, section 2.2 (warmup).
    """
    check_choice("schedule.name", name, SCHEDULES)
    check_choice("schedule.warmup_convention", warmup_convention, tuple(WARMUP_OFFSETS))
    if learning_rate < 0:
        raise InputError(f"learning_rate must not be negative, got {learning_rate}.")
    if not 0 <= warmup_steps < total_steps:
        raise InputError(
            f"The warmup must be shorter than the run, got {warmup_steps} warmup steps of "
            f"{total_steps} steps; lower schedule.warmup_steps or train longer."
        )
    if name == "warmup_cosine" and not 0 <= end_learning_rate <= learning_rate:
        raise InputError(
            f"end_learning_rate must be in 0..{learning_rate} (the peak), got {end_learning_rate}."
        )
    if name == "step" and (step_steps < 1 or step_factor <= 0):
        raise InputError(
            "The schedule 'step' needs step_steps of at least 1 and a positive step_factor, got "
            f"{step_steps} and {step_factor}; set schedule.step_epochs."
        )

    def schedule(step) -> jax.Array:
        step = jnp.asarray(step)
        rate = jnp.asarray(learning_rate, jnp.float32)
        if name == "warmup_cosine":
            left = jnp.clip(total_steps - step, 0, total_steps - warmup_steps)
            share = left.astype(jnp.float32) / (total_steps - warmup_steps)
            # (1 + cos(pi (1 - x))) / 2 = sin^2(pi x / 2), which keeps its digits near the end.
            decayed = jnp.sin(math.pi / 2 * share) ** 2
            rate = end_learning_rate + (rate - end_learning_rate) * decayed
        elif name == "step":
            rate = rate * jnp.float32(step_factor) ** (step // step_steps).astype(jnp.float32)
        if warmup_steps:
            done = step.astype(jnp.float32) + WARMUP_OFFSETS[warmup_convention]
            rate = rate * jnp.minimum(done / warmup_steps, 1.0)
        return rate

    return schedule
