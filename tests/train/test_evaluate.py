import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train import helpers

from configs import smoke
from jaxvision.errors import InputError
from jaxvision.options.options import read_options
from jaxvision.tasks.classification import Classification
from jaxvision.tasks.sums import evaluate_sums
from jaxvision.train.setup import make_run
from jaxvision.train.sharding import make_mesh, put_batch
from jaxvision.train.step import make_eval_step


def padded(data, size):
    """Cuts a dataset into batches of `size`, the last one padded with NaN-producing rubbish."""
    count = len(data["label"])
    for start in range(0, count, size):
        part = {k: v[start : start + size] for k, v in data.items()}
        missing = size - len(part["label"])
        yield {
            k: np.concatenate([v, np.zeros((missing, *v.shape[1:]), v.dtype)])
            for k, v in part.items()
        }


@pytest.mark.parametrize("size", [8, 24, 64, 104])
def test_exact_for_any_batch_size_and_device_count(size):
    data = helpers.batch(0, size=103)
    results = []
    for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh()):
        state, _, _, graphdef = helpers.make(mesh=mesh)
        step = make_eval_step(graphdef, Classification(), preprocess_fn=helpers.preprocess)
        batches = (put_batch(b, mesh) for b in padded(data, size))
        results.append(evaluate_sums(step, {"eval": (state.params, state.batch_stats)}, batches))
    single, sharded = results
    assert single["eval/accuracy"] == sharded["eval/accuracy"]
    assert single["eval/loss"] == pytest.approx(sharded["eval/loss"], rel=1e-6)
    expected = _by_hand(data)
    assert single["eval/accuracy"] == expected["accuracy"]
    assert single["eval/loss"] == pytest.approx(expected["loss"], rel=1e-6)


def _by_hand(data):
    import flax.nnx as nnx

    state, _, _, graphdef = helpers.make()
    model = nnx.merge(graphdef, state.params, state.batch_stats)
    logits = np.asarray(model(helpers.preprocess(jnp.asarray(data["image"]))), np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return {
        "accuracy": float(np.mean(logits.argmax(-1) == data["label"])),
        "loss": float(-np.mean(log_probs[np.arange(len(logits)), data["label"]])),
    }


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="no valid example"):
        evaluate_sums(lambda *_: {}, {"eval": ({}, {})}, [])


def test_an_evaluation_does_not_care_for_the_training_batch():
    options = read_options(smoke.get_config())
    for batch_size in (15, 4):
        options = dataclasses.replace(options, batch_size=batch_size)
        make_run(options, training=False)
        with pytest.raises(InputError, match="--config.batch_size must be a multiple of 8"):
            make_run(options)
    statistics = dataclasses.replace(options.eval, batch_norm_batches=1)  # of training batches
    with pytest.raises(InputError, match="--config.batch_size must be a multiple of 8"):
        make_run(dataclasses.replace(options, eval=statistics), training=False)
