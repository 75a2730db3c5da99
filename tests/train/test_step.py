import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from train import helpers

from jaxvision.tasks.classification import Classification
from jaxvision.train.input import make_preprocess
from jaxvision.train.optim.weight_average import Ema
from jaxvision.train.sharding import make_mesh, put_batch


def test_loss_falls_on_one_batch():
    same = [helpers.batch(0)] * 20
    _, metrics = helpers.run(20, batches=same)
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]


def test_one_trace_and_no_hidden_transfer():
    state, step, mesh, _ = helpers.make()
    step = jax.jit(chex.assert_max_traces(step.__wrapped__, n=1), donate_argnums=0)
    with jax.transfer_guard("disallow"):
        for i in range(3):
            state, _ = step(state, put_batch(helpers.batch(i), mesh))


def test_step_counts_and_key_stays():
    state, step, mesh, _ = helpers.make()
    key = np.array(jax.random.key_data(state.key))
    state, metrics = step(state, put_batch(helpers.batch(0), mesh))
    assert int(state.step) == 1
    np.testing.assert_array_equal(jax.random.key_data(state.key), key)
    assert set(metrics) == {
        "loss",
        "accuracy",
        "grad_norm",
        "learning_rate",
        "skipped_steps",
        "skipped_in_a_row",
    }


def test_dropout_differs_from_step_to_step_and_repeats_from_the_state():
    build = lambda rngs: helpers.build_vit(rngs, dropout_rate=0.5)  # noqa: E731
    tx = optax.sgd(0.0)
    same = [helpers.batch(0)] * 2
    _, first = helpers.run(2, build=build, tx=tx, batches=same)
    _, again = helpers.run(2, build=build, tx=tx, batches=same)
    assert first[0]["loss"] != first[1]["loss"]
    assert [m["loss"] for m in first] == [m["loss"] for m in again]


@pytest.mark.parametrize("build", [helpers.build_vit, helpers.build_resnet])
def test_non_finite_step_changes_nothing_but_counters(build):
    state, step, mesh, _ = helpers.make(build=build, average=Ema(0.9), preprocess_fn=_poison)
    state, _ = step(state, put_batch(helpers.batch(0), mesh))
    before = jax.tree.map(jnp.copy, state)
    bad = helpers.batch(1)
    bad["image"][:] = 255  # becomes NaN in _poison
    for count in (1, 2):
        state, metrics = step(state, put_batch(bad, mesh))
        assert np.isnan(metrics["loss"]) or not np.isfinite(metrics["grad_norm"])
        assert metrics["skipped_in_a_row"] == count
    for name in ("params", "batch_stats", "opt_state", "ema_params", "ema_batch_stats", "key"):
        helpers.assert_equal(getattr(state, name), getattr(before, name))
    assert int(state.step) == 3
    state, metrics = step(state, put_batch(helpers.batch(2), mesh))
    assert metrics["skipped_in_a_row"] == 0 and metrics["skipped_steps"] == 2
    assert helpers.max_difference(state.params, before.params) > 0


def _poison(images):
    bad = jnp.all(images == 255)
    return jnp.where(bad, jnp.nan, helpers.preprocess(images))


def test_accumulation_is_the_large_batch():
    whole, _ = helpers.run(3, tx=helpers.sgd())
    parts, _ = helpers.run(3, tx=helpers.sgd(), accumulate_steps=4)
    assert helpers.max_difference(whole.params, parts.params) < 1e-6


def test_weighted_classes_are_the_same_in_micro_batches_and_on_many_devices():
    task = Classification(class_weights=(0.2, 3.0, 1.0, 0.5, 9.0))
    whole, metrics = helpers.run(3, tx=helpers.sgd(), task=task)
    plain, _ = helpers.run(3, tx=helpers.sgd())
    assert helpers.max_difference(whole.params, plain.params) > 1e-3
    for options in ({"accumulate_steps": 4}, {"mesh": make_mesh(data=8)}):
        parts, others = helpers.run(3, tx=helpers.sgd(), task=task, **options)
        assert helpers.max_difference(whole.params, parts.params) < 1e-6
        assert others[-1]["loss"] == pytest.approx(metrics[-1]["loss"], rel=1e-5)


def test_accumulation_moves_batch_statistics_once_per_micro_batch():
    state, _ = helpers.run(1, build=helpers.build_resnet, accumulate_steps=2)
    whole, _ = helpers.run(1, build=helpers.build_resnet)
    assert helpers.max_difference(state.batch_stats, whole.batch_stats) > 1e-3


repeats = pytest.mark.repeats


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (helpers.build_vit, dict(data=2, fsdp=4)),
        (helpers.build_resnet, dict(data=8)),
        pytest.param(helpers.build_vit, dict(data=8), marks=repeats),
        pytest.param(helpers.build_vit, dict(data=1, fsdp=8), marks=repeats),
        pytest.param(helpers.build_resnet, dict(data=1, fsdp=8), marks=repeats),
        pytest.param(helpers.build_resnet, dict(data=2, fsdp=4), marks=repeats),
    ],
)
def test_any_mesh_gives_the_single_device_result(build, shape, monkeypatch):
    monkeypatch.setattr("jaxvision.train.sharding.MIN_FSDP_SIZE", 1)
    single, _ = helpers.run(3, build=build, tx=helpers.sgd())
    sharded, _ = helpers.run(3, build=build, tx=helpers.sgd(), mesh=make_mesh(**shape))
    assert helpers.max_difference(single.params, sharded.params) < 1e-6
    if single.batch_stats:  # a ViT has none
        assert helpers.max_difference(single.batch_stats, sharded.batch_stats) < 1e-6


def test_fsdp_splits_parameters_and_moments(monkeypatch):
    monkeypatch.setattr("jaxvision.train.sharding.MIN_FSDP_SIZE", 1)
    state, step, mesh, _ = helpers.make(mesh=make_mesh(data=2, fsdp=4))
    state, _ = step(state, put_batch(helpers.batch(0), mesh))
    kernel = state.params["blocks"]["mlp"]["fc1"]["kernel"]
    assert "fsdp" in kernel.sharding.spec
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    moment = state.opt_state[0].mu["blocks"]["mlp"]["fc1"]["kernel"]
    assert moment.sharding == kernel.sharding


def test_sharding_rules_by_path():
    rules = (("attn/query/kernel$", (None, None, "fsdp")),)
    state, *_ = helpers.make(mesh=make_mesh(data=2, fsdp=4), rules=rules)
    attention = state.params["blocks"]["attn"]
    assert attention["query"]["kernel"].sharding.spec == PartitionSpec(None, None, "fsdp")
    assert attention["key"]["kernel"].sharding.spec == PartitionSpec()


def test_ema_follows_its_formula():
    decay = 0.9
    first, step, mesh, _ = helpers.make(average=Ema(decay, warmup=False))
    start = jax.device_get(first.params)
    state, _ = step(first, put_batch(helpers.batch(0), mesh))
    expected = jax.tree.map(
        lambda a, b: decay * a + (1 - decay) * np.asarray(b), start, state.params
    )
    assert helpers.max_difference(expected, state.ema_params) < 2e-7  # roundings of numbers near 1


def test_the_average_of_what_stands_still_stands_still():
    """The two shares sum to 1 as they are rounded: 0.9999 and 1e-4 would lose 2e-8 in each step."""
    state, step, mesh, _ = helpers.make(average=Ema(0.9999, warmup=False), tx=optax.sgd(0.0))
    start = jax.device_get(state.params)
    for i in range(20):
        state, _ = step(state, put_batch(helpers.batch(i), mesh))
    assert helpers.max_difference(start, state.params) == 0
    assert helpers.max_difference(start, state.ema_params) < 2e-7


def test_ema_warmup_starts_fast():
    first, step, mesh, _ = helpers.make(average=Ema(0.999))
    start = jax.device_get(first.params)
    state, _ = step(first, put_batch(helpers.batch(0), mesh))
    expected = jax.tree.map(lambda a, b: 0.1 * a + 0.9 * np.asarray(b), start, state.params)
    assert helpers.max_difference(expected, state.ema_params) < 1e-6


def test_preprocess_is_the_usual_normalisation():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    got = make_preprocess(mean=mean, std=std)(jnp.asarray(images))
    expected = (images.astype(np.float64) / 255 - mean) / std
    np.testing.assert_allclose(got, expected, atol=1e-6)
