"""The two pure functions of the project: one training step, one evaluation step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxvision.train.state import TrainState, step_keys


def make_preprocess(*, mean: tuple, std: tuple) -> Callable[[jax.Array], jax.Array]:
    """Returns the function from uint8 images [B,H,W,3] to normalised float32 images.

    Batches cross to the device as uint8, a quarter of the bytes, and are normalised there.

    Args:
      mean: of each channel, in units of 0..1.
      std: of each channel, in units of 0..1.
    """

    def preprocess(images: jax.Array) -> jax.Array:
        scale = jnp.asarray(1 / (255 * jnp.asarray(std)), jnp.float32)
        shift = jnp.asarray(jnp.asarray(mean) / jnp.asarray(std), jnp.float32)
        return images.astype(jnp.float32) * scale[None, None, None] - shift[None, None, None]

    return preprocess


def _normalised(batch: dict, preprocess: Callable) -> dict:
    return dict(batch, image=preprocess(batch["image"])) if "image" in batch else batch


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def _micro_batches(batch: dict, count: int) -> dict:
    """Splits [B, ...] into [count, B/count, ...] so that every device keeps the examples it has."""
    return jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0), batch
    )


def make_train_step(
    graphdef: nnx.GraphDef,
    task: Any,
    tx: optax.GradientTransformation,
    *,
    schedule: optax.Schedule,
    preprocess: Callable,
    hold: Callable | None = None,
    mix: Callable | None = None,
    ema_decay: float = 0.0,
    ema_warmup: bool = True,
    accumulate_steps: int = 1,
    shardings: Any = None,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """Returns the jitted, donating function (state, batch) -> (state, metrics).

    A step whose loss or gradient is not finite changes nothing but `step` and the two counters of
    skipped steps: parameters, statistics, optimizer and average keep every bit.

    Args:
      graphdef: of the model.
      task: `prepare(batch)` -> batch, and `loss(model, batch, rngs=)` -> (mean loss, metrics).
      tx: the optimizer.
      schedule: the one inside `tx`, to report the rate that a step used.
      preprocess: uint8 images -> float images, on the device.
      hold: (params, updates made) -> params without the gradient of frozen ones, see `make_hold`.
      mix: (key, images, labels) -> (images, soft labels), or None.
      ema_decay: of the averaged parameters; 0 keeps none.
      ema_warmup: start with the smaller decay (1 + step) / (10 + step).
      accumulate_steps: micro-batches that one update is computed in; divides the batch.
      shardings: the shardings of the state, kept from step to step.

    Returns:
      The step. Its metrics are float32 scalars that stay on the device: `loss`, `grad_norm`,
      `learning_rate`, `skipped_steps`, `skipped_in_a_row` and those of the task.
    """

    def gradients(params, updates, batch_stats, batch, key):
        def loss_function(params):
            params = params if hold is None else hold(params, updates)
            # copy: merging shares variables by default, which a gradient's trace must not mutate.
            model = nnx.merge(graphdef, params, batch_stats, copy=True)
            loss, metrics = task.loss(model, batch, rngs=nnx.Rngs(dropout=key))
            new_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
            return loss, (metrics | {"loss": loss}, new_stats)

        grads, (metrics, batch_stats) = jax.grad(loss_function, has_aux=True)(params)
        return grads, metrics, batch_stats

    def accumulated_gradients(params, updates, batch_stats, batch, key):
        def add(carry, micro):
            batch_stats, totals = carry
            grads, metrics, batch_stats = gradients(params, updates, batch_stats, *micro)
            return (batch_stats, jax.tree.map(jnp.add, totals, (grads, metrics))), None

        micro = (_micro_batches(batch, accumulate_steps), jax.random.split(key, accumulate_steps))
        first = jax.tree.map(lambda x: x[0], micro)
        grads, metrics, _ = jax.eval_shape(gradients, params, updates, batch_stats, *first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, metrics))
        (batch_stats, totals), _ = jax.lax.scan(add, (batch_stats, zeros), micro)
        grads, metrics = jax.tree.map(lambda x: x / accumulate_steps, totals)
        return grads, metrics, batch_stats

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        mix_key, dropout_key = step_keys(state.key, state.step)
        batch = task.prepare(_normalised(batch, preprocess))
        if mix is not None:
            batch["image"], batch["label"] = mix(mix_key, batch["image"], batch["label"])
        compute = gradients if accumulate_steps == 1 else accumulated_gradients
        # The optimizer counts the updates it made, not the steps it skipped.
        done = state.step - state.skipped_steps
        grads, metrics, batch_stats = compute(
            state.params, done, state.batch_stats, batch, dropout_key
        )
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = (state.ema_params, state.ema_batch_stats)
        if ema_decay:
            step = state.step.astype(jnp.float32)
            decay = jnp.minimum(ema_decay, (1 + step) / (10 + step)) if ema_warmup else ema_decay
            ema = jax.tree.map(
                lambda old, new: old * decay + new * (1 - decay), ema, (params, batch_stats)
            )

        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
        params, batch_stats, opt_state, ema = _where(
            finite,
            (params, batch_stats, opt_state, ema),
            (
                state.params,
                state.batch_stats,
                state.opt_state,
                (state.ema_params, state.ema_batch_stats),
            ),
        )
        skipped_steps = state.skipped_steps + ~finite
        skipped_in_a_row = jnp.where(finite, 0, state.skipped_in_a_row + 1)
        metrics |= {
            "grad_norm": grad_norm,
            "learning_rate": schedule(done),
            "skipped_steps": skipped_steps,
            "skipped_in_a_row": skipped_in_a_row,
        }
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema_params=ema[0],
            ema_batch_stats=ema[1],
            skipped_steps=skipped_steps,
            skipped_in_a_row=skipped_in_a_row,
        )
        return state, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}

    out_shardings = None if shardings is None else (shardings, None)
    return jax.jit(train_step, donate_argnums=0, out_shardings=out_shardings)


def make_eval_step(
    graphdef: nnx.GraphDef, task: Any, *, preprocess: Callable
) -> Callable[[Any, Any, dict], dict]:
    """Returns the jitted function (params, batch_stats, batch) -> {metric: (sum, count)}."""

    def eval_step(params: Any, batch_stats: Any, batch: dict) -> dict:
        model = nnx.merge(graphdef, params, batch_stats, copy=True)
        return task.evaluate(model, _normalised(batch, preprocess))

    return jax.jit(eval_step)
