"""Averages of the weights along a run: exponential, or stochastic over its last part."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvision.errors import InputError
from jaxvision.train.state import TrainState


@runtime_checkable
class Average(Protocol):
    """A running mean of the weights.

    Attributes:
      name: Prefix of the average's metrics in an evaluation.
    """

    name: str

    def decay(self, updates: jax.Array) -> jax.Array:
        """Returns the share that the average keeps of itself after so many updates."""
        ...


@dataclasses.dataclass(frozen=True)
class Ema:
    """The exponential moving average of the weights.

    Attributes:
      rate: Share that the average keeps of itself in one update.
      warmup: Whether the average begins with the smaller share u / (9 + u) after u updates.
    """

    rate: float
    warmup: bool = True
    name = "eval_ema"

    def decay(self, updates: jax.Array) -> jax.Array:
        """Returns the share that the average keeps of itself after so many updates."""
        # An array: 1 - decay must be taken after the rounding, or the two do not sum to 1 and the
        # average shrinks, in float32 by 2e-4 where the rate is 0.9999.
        rate = jnp.asarray(self.rate, jnp.result_type(float))
        updates = jnp.asarray(updates).astype(rate.dtype)
        return jnp.minimum(rate, updates / (9 + updates)) if self.warmup else rate


@dataclasses.dataclass(frozen=True)
class Swa:
    """The mean of the weights after `start` updates and after every `every` more of them.

    It is kept as the exponential average is, with another decay in each update. Until it starts it
    is the newest weights.

    Attributes:
      start: Number of updates before the first weights that count.
      every: Number of updates between two weights that count.

    Source: Izmailov et al. 2018, Averaging Weights Leads to Wider Optima, algorithm 1.
    """

    start: int
    every: int
    name = "eval_swa"

    def decay(self, updates: jax.Array) -> jax.Array:
        """Returns the share that the average keeps of itself after so many updates."""
        since = jnp.asarray(updates) - self.start
        counted = (since // self.every).astype(jnp.result_type(float))
        counts = (since >= 0) & (since % self.every == 0)
        return jnp.where(counts, counted / (counted + 1), jnp.where(since < 0, 0.0, 1.0))


@dataclasses.dataclass(frozen=True, eq=False)
class ScheduleFree:
    """The average that a schedule-free optimizer is evaluated at.

    Its weights w are between the newest z and their average x: w = (1 - share) z + share x. The
    average follows from itself and w.

    Attributes:
      share: Share of the average in the weights that gradients are taken at.
      newest: Share of the newest z in the average after the first update, the second, ...; after
        the last of these the learning rate is constant.

    Source: Defazio et al. 2024, The Road Less Scheduled, eq. 3 to 5.
    """

    share: float
    newest: np.ndarray
    start = 0
    name = "eval_schedule_free"

    def decay(self, updates: jax.Array) -> jax.Array:
        """Returns the share that the average keeps of itself after so many updates."""
        dtype = jnp.result_type(float)
        known, last = jnp.asarray(self.newest, dtype), len(self.newest)
        later = 1 / (1 / known[-1] + jnp.asarray(updates - last, dtype))
        newest = jnp.where(updates > last, later, known[jnp.minimum(updates, last) - 1])
        return (1 - newest) * (1 - self.share) / (1 - self.share + newest * self.share)


def make_schedule_free(share: float, schedule: optax.Schedule, rising: int) -> ScheduleFree:
    """Returns the average of a schedule-free run.

    Args:
      share: Share of the average in the weights that gradients are taken at.
      schedule: Learning rate by the number of updates.
      rising: Number of updates after which it is constant.
    """
    rates = np.asarray(jax.vmap(schedule)(jnp.arange(rising + 1)), np.float64)
    weights = np.maximum.accumulate(rates) ** 2
    sums = np.cumsum(weights)
    return ScheduleFree(share, np.divide(weights, sums, out=np.zeros_like(sums), where=sums > 0))


def update_average(average: Average, state: TrainState) -> TrainState:
    """Returns the state after an update with the new weights in the average.

    What does not move, such as frozen parameters, keeps every bit there, too.

    Args:
      average: Average of the weights, which says how much of itself it keeps.
      state: State with the new parameters and statistics and the old average; the step is not
        counted yet.
    """
    decay = average.decay(state.updates + 1)

    def blend(old: jax.Array, new: jax.Array) -> jax.Array:
        share = decay.astype(old.dtype)
        rest = (1 - decay).astype(old.dtype)
        return jnp.where(old == new, old, old * share + new * rest)

    params, batch_stats = jax.tree.map(
        blend,
        (state.ema_params, state.ema_batch_stats),
        (state.params, state.batch_stats),
    )
    return dataclasses.replace(state, ema_params=params, ema_batch_stats=batch_stats)


def make_swa(start: int, every: int, *, total_steps: int) -> Swa:
    """Returns the averaging of a run.

    Args:
      start: Number of updates before the first weights that count.
      every: Number of updates between two weights that count.
      total_steps: Number of updates of the run.

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
      schedule: Schedule until `start`.
      start: Number of updates done when the schedule is left.
      learning_rate: Constant learning rate that is reached in the end.
      anneal_steps: Number of updates in which the rate goes there; 0: at once.
      curve: Form of the way to the constant rate, `cosine` or `linear`.

    Note: as torch's SWALR, made after `start` steps of the other scheduler.
    """

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
