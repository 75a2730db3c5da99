"""The two pure functions of the project: one training step, one evaluation step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxvision.tasks.task import Task
from jaxvision.train.gradients import GradientFn
from jaxvision.train.input import PreprocessFn, TrainInput, normalised, update_key
from jaxvision.train.non_finite import keep_if_finite
from jaxvision.train.optim.rate_factor import rate_factor
from jaxvision.train.optim.weight_average import Average, update_average
from jaxvision.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How gradients become updates.

    Attributes:
      tx: Gradient transformation of all parameters, see `make_optimizer`.
      schedule: Schedule of the learning rate inside `tx`, to report the rate that a step used.
    """

    tx: optax.GradientTransformation
    schedule: optax.Schedule

    def update(self, state: TrainState, grads: Any, batch_stats: Any) -> TrainState:
        """Returns the state with new parameters, statistics and optimizer state."""
        updates, opt_state = self.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return dataclasses.replace(
            state, params=params, batch_stats=batch_stats, opt_state=opt_state
        )


def make_train_step(
    prepare: TrainInput,
    gradient_fn: GradientFn,
    optimizer: Optimizer,
    *,
    average: Average | None = None,
    shardings: Any = None,
) -> Callable[..., tuple[TrainState, dict]]:
    """Returns the jitted, donating function (state, batch, constants=None) -> (state, metrics).

    Constants are an argument, because what a program closes over becomes part of it.

    Args:
      prepare: Function (batch, key) -> batch as the gradient reads it.
      gradient_fn: Function (state, batch, key, constants) -> (gradient, metrics, batch_stats), see
        `make_gradient_fn`.
      optimizer: Optimizer with its schedule.
      average: Average of the weights that the state keeps; None: it keeps none.
      shardings: Shardings of the state, kept from step to step.

    Returns:
      The step. Its metrics are float32 scalars, under JAX_ENABLE_X64 float64 ones, that stay on the
      device: `loss`, `grad_norm`, `learning_rate`, `skipped_steps`, `skipped_in_a_row`,
      `loss_scale` of the next step where there is one, and those of the task.
    """

    def train_step(
        state: TrainState, batch: dict, constants: Any = None
    ) -> tuple[TrainState, dict]:
        key = update_key(state.key, state.step)
        batch = prepare(batch, key)
        grads, metrics, batch_stats = gradient_fn(state, batch, key, constants)
        grad_norm = optax.tree.norm(grads)
        new = optimizer.update(state, grads, batch_stats)
        if average is not None:
            new = update_average(average, new)
        new = keep_if_finite(state, new, loss=metrics["loss"], grad_norm=grad_norm)
        metrics |= {
            "grad_norm": grad_norm,
            "learning_rate": optimizer.schedule(state.updates) * rate_factor(state.opt_state),
            "skipped_steps": new.skipped_steps,
            "skipped_in_a_row": new.skipped_in_a_row,
        }
        if new.loss_scale is not None:
            metrics["loss_scale"] = new.loss_scale.scale
        dtype = jnp.result_type(float)
        return new, {name: jnp.asarray(value, dtype) for name, value in metrics.items()}

    out_shardings = None if shardings is None else (shardings, None)
    return jax.jit(train_step, donate_argnums=0, out_shardings=out_shardings)


def make_eval_step(
    graphdef: nnx.GraphDef, task: Task, *, preprocess_fn: PreprocessFn
) -> Callable[[Any, Any, dict], dict]:
    """Returns the jitted function (params, batch_stats, batch) -> {metric: (sum, count)}.

    Args:
      graphdef: Graph definition of the model.
      task: Task that evaluates a batch.
      preprocess_fn: Function from uint8 images to normalised images.
    """

    def eval_step(params: Any, batch_stats: Any, batch: dict) -> dict:
        model = nnx.merge(graphdef, params, batch_stats, copy=True)
        return task.evaluate(model, normalised(batch, preprocess_fn))

    return jax.jit(eval_step)
