"""The loss scale of float16, held against torch.amp.GradScaler and against steps in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from train import helpers

from jaxvision.tasks.classification import Classification
from jaxvision.train.optim import loss_scale
from jaxvision.train.optim.loss_scale import LossScale
from jaxvision.train.optim.weight_average import Ema
from jaxvision.train.sharding import put_batch


def scales(finite):
    """Returns the scale after each step of a pattern."""

    def step(scale, finite):
        scale = scale.after(finite)
        return scale, scale.scale

    return np.asarray(jax.lax.scan(step, LossScale.initial(), jnp.asarray(finite))[1])


def torch_scales(finite):
    torch = pytest.importorskip("torch")
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    found = []
    for good in finite:
        scaler.scale(torch.ones(()))
        parameter.grad = torch.full((1,), 1.0 if good else torch.inf)
        scaler.step(optimizer)
        scaler.update()
        found.append(scaler.get_scale())
    return np.asarray(found)


@pytest.mark.parity
def test_the_sequence_is_that_of_torch():
    finite = np.ones(9000, np.bool_)
    # At once, in a row, just before and at the end of an interval of growth, and just behind it.
    finite[[0, 1, 2, 2001, 2002, 4001, 6002, 6004, 6005]] = False
    expected = torch_scales(finite)
    assert len(set(expected)) > 4
    np.testing.assert_array_equal(scales(finite), expected)


@pytest.mark.parity
def test_the_largest_scale_stays_finite_as_in_torch():
    torch = pytest.importorskip("torch")
    scale, tracker = torch.tensor(2.0**127), torch.zeros((), dtype=torch.int32)
    torch._amp_update_scale_(scale, tracker, torch.zeros(()), 2.0, 0.5, 1)
    last = LossScale(jnp.float32(2.0**127), jnp.int32(loss_scale.GROWTH_INTERVAL - 1))
    last = last.after(jnp.bool_(True))
    assert (float(last.scale), int(last.good_steps)) == (float(scale), int(tracker)) == (2**127, 0)


def test_the_scale_stops_at_its_floor():
    found = scales(np.zeros(20, np.bool_))
    np.testing.assert_array_equal(found[:16], 2.0 ** np.arange(15, -1, -1))
    assert (found[16:] == loss_scale.LEAST_SCALE).all()


def build_half(rngs):
    return helpers.build_vit(rngs, dtype="float16")


def with_scale(state, scale):
    scale = LossScale(jnp.float32(scale), jnp.int32(7))
    return dataclasses.replace(state, loss_scale=jax.device_put(scale, state.step.sharding))


def test_without_float16_the_state_is_what_it_was():
    state, *_ = helpers.make()
    assert state.loss_scale is None
    half, *_ = helpers.make(build=build_half, loss_scale=True)
    assert len(jax.tree.leaves(half)) == len(jax.tree.leaves(state)) + 2


@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_overflows_are_skipped_until_the_scale_fits(accumulate_steps):
    state, step, mesh, _ = helpers.make(
        build=build_half, loss_scale=True, average=Ema(0.9), accumulate_steps=accumulate_steps
    )
    state = with_scale(state, 2.0**26)
    before = jax.tree.map(jnp.copy, state)
    skipped = 0
    for i in range(20):
        state, metrics = step(state, put_batch(helpers.batch(i), mesh))
        assert np.isfinite(metrics["loss"]) and metrics["skipped_in_a_row"] == 0
        if np.isfinite(metrics["grad_norm"]):
            break
        skipped += 1
        assert metrics["loss_scale"] == 2.0 ** (26 - skipped)
        assert metrics["skipped_steps"] == skipped
        for name in ("params", "opt_state", "ema_params", "key"):
            helpers.assert_equal(getattr(state, name), getattr(before, name))
    assert 2 <= skipped < 20
    assert metrics["loss_scale"] == 2.0 ** (26 - skipped) == state.loss_scale.scale
    assert int(state.loss_scale.good_steps) == 1
    assert helpers.max_difference(state.params, before.params) > 0


class Steep(Classification):
    """A finite loss with a gradient that is not."""

    def loss(self, model, batch, *, rngs):
        loss, metrics = super().loss(model, batch, rngs=rngs)
        return loss + jnp.sqrt(0.0 * loss), metrics


def test_what_no_scale_mends_counts_towards_the_end_of_the_run(monkeypatch):
    monkeypatch.setattr(helpers, "Classification", Steep)
    state, step, mesh, _ = helpers.make(build=build_half, loss_scale=True)
    state = with_scale(state, 4.0)
    seen = []
    for i in range(4):
        state, metrics = step(state, put_batch(helpers.batch(i), mesh))
        assert np.isfinite(metrics["loss"])
        seen.append((float(metrics["loss_scale"]), int(metrics["skipped_in_a_row"])))
    assert seen == [(2.0, 0), (1.0, 0), (1.0, 1), (1.0, 2)]


def test_a_loss_that_is_not_finite_counts_at_once():
    state, step, mesh, _ = helpers.make(
        build=build_half, loss_scale=True, preprocess_fn=lambda x: helpers.preprocess(x) * jnp.nan
    )
    for count in (1, 2):
        state, metrics = step(state, put_batch(helpers.batch(0), mesh))
        assert metrics["skipped_in_a_row"] == count
        assert metrics["loss_scale"] == 2.0 ** (16 - count)


class Tiny(Classification):
    def loss(self, model, batch, *, rngs):
        loss, metrics = super().loss(model, batch, rngs=rngs)
        return loss * 1e-6, metrics


def test_the_scale_saves_small_gradients(monkeypatch):
    """Where the loss is tiny, float16 alone has no gradient, and with the scale that of float32."""
    monkeypatch.setattr(helpers, "Classification", Tiny)

    def gradient(build, **options):
        keep = optax.trace(0.0)
        state, step, mesh, _ = helpers.make(build=build, tx=keep, **options)
        state, _ = step(state, put_batch(helpers.batch(0), mesh))
        return np.concatenate([x.ravel() for x in helpers.leaves(state.opt_state.trace)])

    exact = gradient(helpers.build_vit)
    assert np.abs(exact).max() > 0
    scaled, unscaled = gradient(build_half, loss_scale=True), gradient(build_half)
    np.testing.assert_allclose(scaled, exact, atol=0.02 * np.abs(exact).max())
    small = (0 < np.abs(exact)) & (np.abs(exact) < 1e-8)  # what float16 has no number for
    assert small.mean() > 0.1
    assert (unscaled[small] == 0).mean() > 0.9 and (scaled[small] == 0).mean() < 0.1
