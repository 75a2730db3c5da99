"""Momentum contrast, MoCo v3: each view of an image finds the other one among those of a batch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.interop.moco import continue_from
from jaxvision.metrics.contrast import info_nce, spread
from jaxvision.models.image_model import PRETRAINING
from jaxvision.models.moco import build_with_momentum
from jaxvision.options.moco import MocoOptions
from jaxvision.options.options import Options
from jaxvision.options.size import sides
from jaxvision.tasks.samples import outputs_of
from jaxvision.tasks.task import Build, Metrics, OpenRun, Weights, check_contrast
from jaxvision.tasks.unlabelled import Unlabelled

GROUP = 256  # evaluation images that are told from each other


@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentumContrast(Unlabelled):
    """The symmetric loss of MoCo v3 for any image model, over the whole batch of all devices.

    The momentum encoder is part of the model while it learns, see `models.moco`: it is in the
    checkpoints, and moves at the beginning of a step. An evaluation tells each image of a group of
    256 from its mirror image among those of the others; groups do not depend on the batch size.

    Attributes:
      options: Options of config.moco.
      total_steps: Number of updates of the run, over which the momentum rises.

    Source: Chen et al. 2021, An Empirical Study of Training Self-Supervised Vision Transformers,
      algorithm 1.
    """

    name: ClassVar[str] = "momentum_contrast"
    model_task: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[str, ...]] = ("loss", "pretext_accuracy", "output_std")

    options: MocoOptions = MocoOptions()
    total_steps: int = 1

    @classmethod
    def _open(cls, options: Options, *, training: bool) -> Any:
        _check_options(options)
        task = super()._open(options, training=training)
        data = dataclasses.replace(task.data, views=2)
        length = options.length(len(data.train_source))
        return dataclasses.replace(
            task, data=data, options=options.moco, total_steps=length.total_steps
        )

    def fit_model(self, build: Build, options: Options) -> tuple[Any, Build]:
        """Returns the task, and the function that builds the model with all it learns by."""
        trunk: Any = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
        graphdef, state = nnx.split(trunk)
        shape = (1, *sides(options.data.image_size), 3)
        images = jax.ShapeDtypeStruct(shape, options.model.dtype)
        outputs = jax.eval_shape(
            lambda state, images: nnx.merge(graphdef, state)(images), state, images
        )
        build = functools.partial(
            build_with_momentum,
            build=build,
            width=outputs.shape[-1],
            options=self.options,
            dtype=options.model.dtype,
        )
        return self, build

    def start_from(self, model: Any, path: str) -> None:
        """Lets momentum encoder, projector and predictor go on where the file has them.

        Otherwise the momentum encoder starts as the trunk, and the rest from random values.
        """
        continue_from(model, path)

    def loss(self, model: Any, batch: dict, *, rngs: nnx.Rngs) -> tuple[jax.Array, dict]:
        """Returns the mean loss of a training batch, and metrics that tell of a collapse.

        `output_std` is the spread of what the projector gives, see `metrics.contrast.spread`;
        `pretext_accuracy` the share of views that find their image.
        """
        first, second = jnp.split(batch["image"], 2, axis=1)
        beside = getattr(model, PRETRAINING)
        keep = self._keep(beside.updates[...])
        projected = [
            beside.projector(model(view, train=True, rngs=rngs), train=True)
            for view in (first, second)
        ]
        queries = [beside.predictor(each, train=True) for each in projected]
        beside.move(model, keep)
        keys = [
            jax.lax.stop_gradient(beside.momentum(view, train=True, rngs=rngs))
            for view in (first, second)
        ]
        pairs = [
            _contrast(query, key, self.options.temperature)
            for query, key in zip(queries, keys[::-1], strict=True)
        ]
        losses, right = (jnp.mean(jnp.stack(each)) for each in zip(*pairs, strict=True))
        metrics = {"pretext_accuracy": right, "output_std": spread(projected[0]), "momentum": keep}
        # Both halves are added, each times twice the temperature.
        return 4 * self.options.temperature * losses, metrics

    def _keep(self, updates: jax.Array) -> jax.Array:
        """Returns the share of itself that the momentum encoder keeps, after some updates."""
        keep = jnp.asarray(self.options.momentum, updates.dtype)
        if self.options.momentum_schedule == "constant":
            return keep
        share = jnp.minimum(updates / self.total_steps, 1.0)
        return 1 - (1 - keep) * (1 + jnp.cos(jnp.pi * share)) / 2

    def evaluate(self, model: Any, batch: dict) -> dict:
        """Returns {metric: (sum, count)} of the valid examples of a batch among themselves."""
        queries, keys, outputs = jnp.split(self._outputs(model, batch["image"]), 3, axis=-1)
        losses, right = _contrast(queries, keys, self.options.temperature)
        valid = batch["mask"]
        count = jnp.sum(valid)
        return {
            "loss": (jnp.sum(jnp.where(valid, 4 * self.options.temperature * losses, 0.0)), count),
            "pretext_accuracy": (jnp.sum(jnp.where(valid, right, 0.0)), count),
            "output_std": (spread(outputs) * count, count),
        }

    def _outputs(self, model: Any, images: jax.Array) -> jax.Array:
        """Returns query, key of the mirror image, and output of the projector of each image."""
        beside = getattr(model, PRETRAINING)
        outputs = beside.projector(model(images))
        keys = beside.momentum(images[:, :, ::-1])
        return jnp.concatenate([beside.predictor(outputs), keys, outputs], axis=-1)

    def own_evaluator(self, run: OpenRun) -> Callable[[dict[str, Weights]], Metrics]:
        """Returns the function from sets of weights to the metrics of the task."""

        @jax.jit
        def outputs(params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
            model: Any = nnx.merge(run.graphdef, params, batch_stats, copy=True)
            return self._outputs(model, run.preprocess_fn(images))

        def score(weights: Weights) -> Metrics:
            rows, _ = outputs_of(
                run, self.data.eval_source, lambda batch: outputs(*weights, batch["image"])
            )
            groups = np.array_split(rows, max(len(rows) // GROUP, 1))
            losses, right, stds = [], [], []
            for group in groups:
                queries, keys, projected = jnp.split(jnp.asarray(group), 3, axis=-1)
                pair = _contrast(queries, keys, self.options.temperature)
                losses.append(np.asarray(pair[0]))
                right.append(np.asarray(pair[1]))
                stds.append(float(spread(projected)))
            return {
                "loss": 4 * self.options.temperature * float(np.concatenate(losses).mean()),
                "pretext_accuracy": float(np.concatenate(right).mean()),
                "output_std": float(np.mean(stds)),
            }

        return lambda sets: {
            f"{prefix}/{name}": value
            for prefix, weights in sets.items()
            for name, value in score(weights).items()
        }


def _contrast(queries: jax.Array, keys: jax.Array, temperature: float) -> Any:
    dtype = jnp.promote_types(queries.dtype, jnp.float32)
    return info_nce(queries.astype(dtype), keys.astype(dtype), temperature=temperature)


def _check_options(options: Options) -> None:
    """Checks that the contrast is over the batch as it is, each image in it once."""
    task = options.task
    check_contrast(options)
    if options.accumulate_steps > 1:
        raise InputError(
            f"--config.task={task} contrasts all images of a batch with each other, which a sum "
            "over micro-batches is not: set --config.accumulate_steps=1, and spread the batch over "
            "more devices."
        )
    if options.augment.repeats > 1:
        raise InputError(
            f"--config.task={task} takes the images of a batch for different ones: set "
            "--config.augment.repeats=1."
        )
    if options.optimizer.sam_rho:
        raise InputError(
            f"--config.task={task} moves the momentum encoder with each gradient, of which "
            "sharpness-aware steps have two: set --config.optimizer.sam_rho=0."
        )
