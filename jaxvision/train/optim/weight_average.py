"""Stochastic weight averaging: which weights count, and the learning rate they are made with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvision.errors import InputError, check_choice

CURVES = ("cosine", "linear")


@dataclasses.dataclass(frozen=True)
class Swa:
    """The mean of the weights after `start` updates and after every `every` more of them.

    It is kept as the exponential average is, with another decay in each update. Until it starts it
    is the newest weights.

    Attributes:
      start: updates before the first weights that count.
      every: updates between two.

    Source: Izmailov et al. 2018, Averaging Weights Leads to Wider Optima, algorithm 1.
    """

    start: int
    every: int

    def decay(self, updates: jax.Array) -> jax.Array:
        """Returns the share that the average keeps of itself after so many updates."""
        since = jnp.asarray(updates) - self.start
        counted = (since // self.every).astype(jnp.result_type(float))
        counts = (since >= 0) & (since % self.every == 0)
        return jnp.where(counts, counted / (counted + 1), jnp.where(since < 0, 0.0, 1.0))


def make_swa(start: int, every: int, *, total_steps: int) -> Swa:
    """Returns the averaging of a run.

    Args:
      start: updates before the first weights that count.
      every: updates between two.
      total_steps: updates of the run.

    Raises:
      InputError: if nothing would be averaged.
    """
    if not 0 < start < total_steps:
        raise InputError(
            f"--config.swa.start_* must lie inside the run of {total_steps} updates, got {start} "
            "updates."
        )
    if every < 1:
        raise InputError(f"--config.swa.every_* must be at least one update, got {every}.")
    return Swa(start, every)


def swa_schedule(
    schedule: optax.Schedule,
    *,
    start: int,
    learning_rate: float,
    anneal_steps: int = 0,
    curve: str = "cosine",
) -> optax.Schedule:
    """Returns a schedule that leaves another one at `start` and goes to a constant rate.

    Args:
      schedule: until then.
      start: updates done.
      learning_rate: constant, once it is reached.
      anneal_steps: updates in which it goes there; 0: at once.
      curve: `cosine` or `linear`.

    Note: as torch's SWALR, made after `start` steps of the other scheduler.
    """
    check_choice("swa.curve", curve, CURVES)

    def annealed(step) -> jax.Array:
        step = jnp.asarray(step)
        since = (step - start).astype(jnp.result_type(float))
        share = jnp.clip(since / max(anneal_steps, 1), 0.0, 1.0)
        if not anneal_steps:
            share = (since >= 0).astype(since.dtype)
        if curve == "cosine":
            share = jnp.sin(np.pi / 2 * share) ** 2
        before = jnp.asarray(schedule(jnp.minimum(step, start)))
        return before * (1 - share) + learning_rate * share

    return annealed
