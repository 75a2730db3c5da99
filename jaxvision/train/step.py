"""The two pure functions of the project: one training step, one evaluation step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxvision.train.optim.loss_scale import LossScale
from jaxvision.train.optim.rate_factor import rate_factor
from jaxvision.train.optim.weight_average import Swa
from jaxvision.train.state import TrainState, augment_key, step_keys


def make_preprocess(*, mean: tuple, std: tuple) -> Callable[[jax.Array], jax.Array]:
    """Returns the function from uint8 images [B,H,W,3] to normalised float32 images.

    Batches cross to the device as uint8, a quarter of the bytes, and are normalised there; under
    JAX_ENABLE_X64 in float64.

    Args:
      mean: of each channel, in units of 0..1.
      std: of each channel, in units of 0..1.
    """

    def preprocess_fn(images: jax.Array) -> jax.Array:
        dtype = jnp.result_type(float)
        scale = jnp.asarray(1 / (255 * jnp.asarray(std)), dtype)
        shift = jnp.asarray(jnp.asarray(mean) / jnp.asarray(std), dtype)
        return images.astype(dtype) * scale[None, None, None] - shift[None, None, None]

    return preprocess_fn


def _normalised(batch: dict, preprocess_fn: Callable) -> dict:
    return dict(batch, image=preprocess_fn(batch["image"])) if "image" in batch else batch


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
    preprocess_fn: Callable,
    augment: Callable | None = None,
    stop_frozen: Callable | None = None,
    mix: Callable | None = None,
    ema_decay: float = 0.0,
    ema_warmup: bool = True,
    swa: Swa | None = None,
    accumulate_steps: int = 1,
    shardings: Any = None,
) -> Callable[..., tuple[TrainState, dict]]:
    """Returns the jitted, donating function (state, batch, constants=None) -> (state, metrics).

    Constants are an argument, because what a program closes over becomes part of it.

    A step whose loss or gradient is not finite changes nothing but `step` and the two counters of
    skipped steps: parameters, statistics, optimizer and average keep every bit. With a loss scale
    in the state, a gradient that is not finite halves it as well.

    Args:
      graphdef: of the model.
      task: `prepare(batch)` -> batch, and `loss(model, batch, rngs=)` -> (mean loss, metrics); the
        loss of a task with constants, such as the weights of a teacher, takes `constants=` too.
      tx: the optimizer.
      schedule: the one inside `tx`, to report the rate that a step used.
      preprocess_fn: uint8 images -> float images, on the device.
      augment: (key, uint8 images) -> float images in place of `preprocess_fn`, or None.
      stop_frozen: (params, updates made) -> params without the gradient of frozen ones, see
        `stop_frozen_gradients`.
      mix: (key, images, labels) -> (images, soft labels), or None.
      ema_decay: of the averaged parameters; 0 keeps none.
      ema_warmup: start with the smaller decay (1 + step) / (10 + step).
      swa: average in this way instead.
      accumulate_steps: micro-batches that one update is computed in; divides the batch.
      shardings: the shardings of the state, kept from step to step.

    Returns:
      The step. Its metrics are float32 scalars, under JAX_ENABLE_X64 float64 ones, that stay on the
      device: `loss`, `grad_norm`, `learning_rate`, `skipped_steps`, `skipped_in_a_row`,
      `loss_scale` of the next step where there is one, and those of the task.
    """

    def gradients(params, updates, batch_stats, scale, batch, key, constants):
        extra = {} if constants is None else {"constants": constants}

        def loss_function(params):
            params = params if stop_frozen is None else stop_frozen(params, updates)
            # copy: merging shares variables by default, which a gradient's trace must not mutate.
            model = nnx.merge(graphdef, params, batch_stats, copy=True)
            loss, metrics = task.loss(model, batch, rngs=nnx.Rngs(dropout=key), **extra)
            new_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
            scaled = loss if scale is None else loss * scale
            return scaled, (metrics | {"loss": loss}, new_stats)

        grads, (metrics, batch_stats) = jax.grad(loss_function, has_aux=True)(params)
        if scale is not None:
            grads = jax.tree.map(lambda x: x / scale, grads)
        return grads, metrics, batch_stats

    def accumulated_gradients(params, updates, batch_stats, scale, batch, key, constants):
        def add(carry, micro):
            (batch_stats, totals), (part, key) = carry, micro
            grads, metrics, batch_stats = gradients(
                params, updates, batch_stats, scale, part, key, constants
            )
            return (batch_stats, jax.tree.map(jnp.add, totals, (grads, metrics))), None

        micro = (_micro_batches(batch, accumulate_steps), jax.random.split(key, accumulate_steps))
        part, key = jax.tree.map(lambda x: x[0], micro)
        grads, metrics, _ = jax.eval_shape(
            gradients, params, updates, batch_stats, scale, part, key, constants
        )
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, metrics))
        (batch_stats, totals), _ = jax.lax.scan(add, (batch_stats, zeros), micro)
        grads, metrics = jax.tree.map(lambda x: x / accumulate_steps, totals)
        return grads, metrics, batch_stats

    def train_step(
        state: TrainState, batch: dict, constants: Any = None
    ) -> tuple[TrainState, dict]:
        mix_key, dropout_key = step_keys(state.key, state.step)
        look = preprocess_fn
        if augment is not None:
            look = functools.partial(augment, augment_key(state.key, state.step))
        batch = task.prepare(_normalised(batch, look))
        if mix is not None:
            batch["image"], batch["label"] = mix(mix_key, batch["image"], batch["label"])
        compute = gradients if accumulate_steps == 1 else accumulated_gradients
        # The optimizer counts the updates it made, not the steps it skipped.
        done = state.step - state.skipped_steps
        loss_scale: LossScale | None = state.loss_scale
        scale = None if loss_scale is None else loss_scale.scale
        grads, metrics, batch_stats = compute(
            state.params, done, state.batch_stats, scale, batch, dropout_key, constants
        )
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = (state.ema_params, state.ema_batch_stats)
        if ema_decay or swa is not None:
            # An array: 1 - decay must be taken after the rounding, or the two do not sum to 1 and
            # the average shrinks, in float32 by 2e-4 where the decay is 0.9999.
            decay = jnp.asarray(ema_decay, jnp.result_type(float))
            if swa is not None:
                decay = swa.decay(done + 1)
            elif ema_warmup:
                step = state.step.astype(decay.dtype)
                decay = jnp.minimum(decay, (1 + step) / (10 + step))
            ema = jax.tree.map(
                lambda old, new: (
                    old * decay.astype(old.dtype) + new * (1 - decay).astype(old.dtype)
                ),
                ema,
                (params, batch_stats),
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
        in_a_row = state.skipped_in_a_row + 1
        if loss_scale is not None:
            # A gradient too large for float16 is the scale's doing while that can still fall; a
            # loss is never, as it is scaled afterwards.
            in_a_row *= ~jnp.isfinite(metrics["loss"]) | loss_scale.is_least
            loss_scale = loss_scale.after(jnp.isfinite(grad_norm))
            metrics["loss_scale"] = loss_scale.scale
        skipped_in_a_row = jnp.where(finite, 0, in_a_row)
        metrics |= {
            "grad_norm": grad_norm,
            "learning_rate": schedule(done) * rate_factor(state.opt_state),
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
            loss_scale=loss_scale,
        )
        dtype = jnp.result_type(float)
        return state, {name: jnp.asarray(value, dtype) for name, value in metrics.items()}

    out_shardings = None if shardings is None else (shardings, None)
    return jax.jit(train_step, donate_argnums=0, out_shardings=out_shardings)


def make_eval_step(
    graphdef: nnx.GraphDef, task: Any, *, preprocess_fn: Callable
) -> Callable[[Any, Any, dict], dict]:
    """Returns the jitted function (params, batch_stats, batch) -> {metric: (sum, count)}."""

    def eval_step(params: Any, batch_stats: Any, batch: dict) -> dict:
        model = nnx.merge(graphdef, params, batch_stats, copy=True)
        return task.evaluate(model, _normalised(batch, preprocess_fn))

    return jax.jit(eval_step)
