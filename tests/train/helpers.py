"""A tiny run that the training tests share."""

import functools

import jax
import numpy as np
import optax
from making import make_train_step

from jaxvision.models.registry import create_model
from jaxvision.tasks.classification import Classification
from jaxvision.train.input import make_preprocess
from jaxvision.train.sharding import make_mesh, put_batch
from jaxvision.train.state import abstract_model, abstract_state, create_state

CLASSES = 5
preprocess = make_preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def build_vit(rngs, **kwargs):
    kwargs = dict(width=16, depth=2, num_heads=2, patch_size=8, image_size=16) | kwargs
    return create_model("vit_ti16", num_classes=CLASSES, rngs=rngs, **kwargs)


def build_resnet(rngs, **kwargs):
    kwargs = dict(stage_widths=(8, 16), stage_depths=(1, 1), stem="cifar") | kwargs
    return create_model("resnet18", num_classes=CLASSES, rngs=rngs, **kwargs)


def batch(seed, size=16, image_size=16):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (size, image_size, image_size, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, size).astype(np.int32),
        "mask": np.ones(size, np.bool_),
    }


def make(
    build=build_vit, *, mesh=None, rules=(), tx=None, seed=0, loss_scale=False, task=None, **options
):
    """Returns (state, step, mesh, graphdef)."""
    mesh = mesh or make_mesh(devices=jax.devices()[:1])
    schedule = optax.constant_schedule(1e-2)
    tx = tx or optax.adamw(schedule)
    graphdef, _, _ = abstract_model(build)
    ema = options.get("average") is not None
    abstract = abstract_state(build, tx, mesh=mesh, rules=rules, ema=ema, loss_scale=loss_scale)
    state = create_state(build, tx, seed=seed, abstract=abstract)
    step = make_train_step(
        graphdef,
        task or Classification(),
        tx,
        schedule=schedule,
        shardings=jax.tree.map(lambda x: x.sharding, abstract),
        **({"preprocess_fn": preprocess} | options),
    )
    return state, step, mesh, graphdef


def run(steps=3, *, batches=None, **kwargs):
    """Trains a few steps; returns (state, list of metrics) on the host."""
    state, step, mesh, _ = make(**kwargs)
    metrics = []
    for i in range(steps):
        state, m = step(state, put_batch(batches[i] if batches else batch(i), mesh))
        metrics.append(m)
    return state, jax.device_get(metrics)


def leaves(tree):
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


def is_key(x):
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def max_difference(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return max(float(np.abs(x - y).max()) for x, y in zip(leaves(a), leaves(b), strict=True))


sgd = functools.partial(optax.sgd, 0.05)
