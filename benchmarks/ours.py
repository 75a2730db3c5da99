"""This project's side of the benchmarks: the training step of a run, without a run."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import jaxvision as jv
from jaxvision.options.optimizer import OptimizerOptions
from jaxvision.tasks.classification import Classification
from jaxvision.train.gradients import make_gradient_fn
from jaxvision.train.input import TrainInput, make_preprocess, update_key
from jaxvision.train.optim.optimizer import make_optimizer, not_decayed_names
from jaxvision.train.sharding import make_mesh
from jaxvision.train.state import TrainState, abstract_model, abstract_state, create_state
from jaxvision.train.step import Optimizer, make_eval_step, make_train_step

RATE = 1e-8  # so small that the state does not drift


@dataclasses.dataclass
class Training:
    """What a step of a model needs; nothing is allocated before `create`."""

    build: Callable
    tx: Any
    mesh: Any
    abstract: TrainState
    train_step: Callable
    gradient: Callable  # (state, batch) -> (gradient, loss)
    eval_step: Callable
    image_size: int

    def create(self) -> TrainState:
        """Returns the first state."""
        return create_state(self.build, self.tx, seed=0, abstract=self.abstract)

    def batch(self, size: int) -> dict:
        """Returns a random host batch."""
        rng = np.random.default_rng(0)
        side = self.image_size
        return {
            "image": rng.integers(0, 256, (size, side, side, 3), np.uint8),
            "label": rng.integers(0, 1000, size).astype(np.int32),
            "mask": np.ones(size, bool),
        }


def training(name: str, *, side: int | None = None, **options: Any) -> Training:
    """Returns the AdamW training of a model of the registry, without any dropping.

    Args:
      name: Name of the model.
      side: Side of the images in pixels; None: the model's own.
      **options: Options of `create_model`.
    """
    fields = {field.name for field in dataclasses.fields(jv.get_spec(name).config)}
    options |= {field: 0.0 for field in fields if field.endswith("_rate")}
    if side is not None and "image_size" in fields:
        options["image_size"] = side
    build = functools.partial(_build, name=name, **options)
    graphdef, params, stats = abstract_model(build)
    schedule = optax.constant_schedule(RATE)
    not_decayed = not_decayed_names(nnx.merge(graphdef, params, stats))
    tx = make_optimizer(params, OptimizerOptions(), schedule=schedule, not_decayed=not_decayed)
    mesh = make_mesh(data=-1, fsdp=1)
    abstract = abstract_state(build, tx, mesh=mesh)
    spec = jv.get_spec(name)
    preprocess_fn = make_preprocess(mean=spec.preprocess.mean, std=spec.preprocess.std)
    prepare, gradient_fn = TrainInput(preprocess_fn), make_gradient_fn(graphdef, Classification())

    def gradient(state, batch):
        key = update_key(state.key, state.step)
        gradients, metrics, _ = gradient_fn(state, prepare(batch, key), key, None)
        return gradients, metrics["loss"]

    return Training(
        build=build,
        tx=tx,
        mesh=mesh,
        abstract=abstract,
        train_step=make_train_step(
            prepare,
            gradient_fn,
            Optimizer(tx, schedule),
            shardings=jax.tree.map(lambda x: x.sharding, abstract),
        ),
        gradient=jax.jit(gradient),
        eval_step=make_eval_step(graphdef, Classification(), preprocess_fn=preprocess_fn),
        image_size=side or spec.image_size,
    )


def _build(rngs, *, name, **options):
    return jv.create_model(name, rngs=rngs, **options)
