"""The rule for steps whose loss or gradient is not finite: nothing is learned from them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxvision.train.state import TrainState


def keep_if_finite(
    old: TrainState, new: TrainState, *, loss: jax.Array, grad_norm: jax.Array
) -> TrainState:
    """Returns the state after a step: the new one, or the old one if the step was not finite.

    A step that is not finite changes nothing but `step`, the two counters of skipped steps and the
    loss scale, which it halves: parameters, statistics, optimizer and average keep every bit.

    Args:
      old: State before the step.
      new: State with what the step learned.
      loss: Loss of the step.
      grad_norm: Global norm of the step's gradient.
    """
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    def choose(name: str) -> Any:
        return jax.tree.map(
            lambda n, o: jnp.where(finite, n, o), getattr(new, name), getattr(old, name)
        )

    in_a_row, loss_scale = old.skipped_in_a_row + 1, old.loss_scale
    if loss_scale is not None:
        # A gradient too large for float16 is the scale's doing while that can still fall; a loss is
        # never, as it is scaled afterwards.
        in_a_row *= ~jnp.isfinite(loss) | loss_scale.is_least
        loss_scale = loss_scale.after(jnp.isfinite(grad_norm))
    learned = ("params", "batch_stats", "opt_state", "ema_params", "ema_batch_stats")
    return dataclasses.replace(
        old,
        step=old.step + 1,
        **{name: choose(name) for name in learned},
        skipped_steps=old.skipped_steps + ~finite,
        skipped_in_a_row=jnp.where(finite, 0, in_a_row),
        loss_scale=loss_scale,
    )
