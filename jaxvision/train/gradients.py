"""The gradient of a task's loss, of a whole batch or of micro-batches one after the other."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxvision.layers.adapter import draw_adapter_keys
from jaxvision.tasks.task import Task
from jaxvision.train.input import mix_and_dropout_keys
from jaxvision.train.optim.loss_scale import scaled, unscaled
from jaxvision.train.state import TrainState

# (state, batch, key of the update, constants) -> (gradient, metrics, batch statistics)
GradientFn = Callable[[TrainState, dict, jax.Array, Any], tuple[Any, dict, Any]]


def make_gradient_fn(
    graphdef: nnx.GraphDef,
    task: Task,
    *,
    stop_frozen: Callable[[Any, jax.Array], Any] | None = None,
    accumulate_steps: int = 1,
) -> GradientFn:
    """Returns the function (state, batch, key, constants) -> (gradient, metrics, batch_stats).

    The metrics have `loss` among them; the gradient is that of the loss, whatever its scale.

    Args:
      graphdef: Graph definition of the model.
      task: Task that gives the loss.
      stop_frozen: Function (params, updates made) -> params without the gradient of frozen ones,
        see `stop_frozen_gradients`; None: all are trained.
      accumulate_steps: Number of micro-batches that one update is computed in; divides the batch.
    """

    def gradients(state: TrainState, batch_stats: Any, batch: dict, key: jax.Array, constants: Any):
        extra = {} if constants is None else {"constants": constants}

        def loss_function(params):
            params = params if stop_frozen is None else stop_frozen(params, state.updates)
            # copy: merging shares variables by default, which a gradient's trace must not mutate.
            model = nnx.merge(graphdef, params, batch_stats, copy=True)
            draw_adapter_keys(model, key)
            loss, metrics = task.loss(model, batch, rngs=nnx.Rngs(dropout=key), **extra)
            new_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
            return scaled(loss, state.loss_scale), (metrics | {"loss": loss}, new_stats)

        grads, (metrics, new_stats) = jax.grad(loss_function, has_aux=True)(state.params)
        return unscaled(grads, state.loss_scale), metrics, new_stats

    def accumulated(state: TrainState, batch: dict, key: jax.Array, constants: Any):
        def add(carry, micro):
            (batch_stats, totals), (part, key) = carry, micro
            grads, metrics, batch_stats = gradients(state, batch_stats, part, key, constants)
            return (batch_stats, jax.tree.map(jnp.add, totals, (grads, metrics))), None

        micro = (_micro_batches(batch, accumulate_steps), jax.random.split(key, accumulate_steps))
        part, first_key = jax.tree.map(lambda x: x[0], micro)
        grads, metrics, _ = jax.eval_shape(
            gradients, state, state.batch_stats, part, first_key, constants
        )
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, metrics))
        (batch_stats, totals), _ = jax.lax.scan(add, (state.batch_stats, zeros), micro)
        grads, metrics = jax.tree.map(lambda x: x / accumulate_steps, totals)
        return grads, metrics, batch_stats

    def gradient_fn(state: TrainState, batch: dict, key: jax.Array, constants: Any):
        _, key = mix_and_dropout_keys(key)
        batch = task.prepare(batch)
        if accumulate_steps > 1:
            return accumulated(state, batch, key, constants)
        return gradients(state, state.batch_stats, batch, key, constants)

    return gradient_fn


def sharpness_aware(gradient_fn: GradientFn, *, rho: float, adaptive: bool) -> GradientFn:
    """Returns the gradient where the loss is about greatest near the weights, at twice the cost.

    Metrics and batch statistics are those of the weights themselves.

    Args:
      gradient_fn: Function of the gradient at the weights, see `make_gradient_fn`.
      rho: Distance of the place; under `adaptive` in units of each weight.
      adaptive: Whether it is far in large weights (ASAM).

    Source: Foret et al. 2021, Sharpness-Aware Minimization, eq. 2 and 3; Kwon et al. 2021, ASAM.
    """

    def uphill_gradient(state: TrainState, batch: dict, key: jax.Array, constants: Any):
        grads, metrics, batch_stats = gradient_fn(state, batch, key, constants)
        sizes = jax.tree.map(lambda p: jnp.abs(p) if adaptive else jnp.ones_like(p), state.params)
        scaled_grads = jax.tree.map(jnp.multiply, sizes, grads)
        factor = rho / (optax.tree.norm(scaled_grads) + 1e-12)
        params = jax.tree.map(
            lambda p, size, g: p + (factor * size * g).astype(p.dtype),
            state.params,
            sizes,
            scaled_grads,
        )
        uphill = dataclasses.replace(state, params=params)
        grads, _, _ = gradient_fn(uphill, batch, key, constants)
        return grads, metrics, batch_stats

    return uphill_gradient


def _micro_batches(batch: dict, count: int) -> dict:
    """Splits [B, ...] into [count, B/count, ...] so that every device keeps the examples it has."""
    return jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0), batch
    )
