"""Plateaus against torch, factors in the optimizer's state, and runs that end early."""

import json
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from making import make_optimizer, make_schedule
from opening import train
from train import helpers
from train.test_loop import Killed, config, losses, metrics

from jaxvision.errors import InputError
from jaxvision.options.optimizer import OPTIMIZERS
from jaxvision.train.checkpoint import Checkpointer
from jaxvision.train.optim.rate_factor import rate_factor, set_rate_factor
from jaxvision.train.progress import EarlyStopping, Progress, ReduceOnPlateau
from jaxvision.train.run import Run
from jaxvision.train.sharding import put_batch


def long_curve(rng, evaluations=400):
    """Falls in stages with noise, rises at times, and is not always finite."""
    stages = np.repeat(rng.uniform(0.1, 2.0, 10), evaluations // 10)
    curve = stages * (1 + 0.5 * np.exp(-np.arange(evaluations) / 60))
    curve = curve + rng.normal(0, 0.02, evaluations)
    curve[rng.integers(0, evaluations, 3)] = np.nan
    return curve.tolist()


@pytest.mark.parity
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(factor=0.5, patience=3, cooldown=2),
        dict(factor=0.3, patience=0, cooldown=5, min_lr=1e-4),
        dict(factor=0.7, patience=2, threshold=0.05, threshold_mode="abs"),
        dict(factor=0.5, patience=4, mode="max"),
        dict(factor=0.9, patience=1, mode="max", threshold=0.1, threshold_mode="abs", cooldown=1),
        dict(factor=0.1, patience=1, min_lr=3e-9),
    ],
)
def test_rates_are_those_of_torch(options):
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    ours = dict(options, maximize=options.get("mode") == "max")
    ours.pop("mode", None)
    ours["min_learning_rate"] = ours.pop("min_lr", 0.0)
    new = lambda: Progress(plateau=ReduceOnPlateau("eval/loss", learning_rate=0.3, **ours))  # noqa: E731
    progress, rates = new(), set()
    for i, value in enumerate(long_curve(np.random.default_rng(0))):
        scheduler.step(value)
        before = progress.rate_factor
        lowered = progress.update(i, {"eval/loss": value})
        assert progress.plateau.rate == optimizer.param_groups[0]["lr"], i
        assert lowered == (progress.rate_factor < before)
        rates.add(progress.plateau.rate)
        saved = json.loads(json.dumps(progress.saved()))  # as if killed after each evaluation
        progress = new()
        progress.restore(saved)
    assert len(rates) > 3


def test_early_stopping_counts_evaluations_since_the_best():
    stopping = EarlyStopping("eval/loss", maximize=False, patience=3, min_delta=0.1)
    for step, value, bad in [
        (10, 1.0, 0),
        (20, 0.95, 1),  # better, but not by 0.1
        (30, 0.85, 0),
        (40, math.nan, 1),
        (50, 0.76, 2),
        (60, 0.7, 0),
        (70, 0.61, 1),
        (80, 0.9, 2),
        (90, 2.0, 3),
    ]:
        assert not stopping.ended
        stopping.update(step, value)
        assert stopping.bad == bad, step
    assert stopping.ended and (stopping.best, stopping.best_step) == (0.7, 60)
    assert "the best eval/loss, 0.7, is that of step 60" in Progress(None, stopping).explain_end()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_factor_is_that_of_the_rate(name):
    """The factor 0.1 moves as a schedule that falls to a tenth does, momentum included."""
    params = {"head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
    options = dict(name=name, weight_decay=0.1, with_rate_factor=True)

    def moved(factor):
        schedule = make_schedule("plateau", learning_rate=0.3, total_steps=10)
        tx = make_optimizer(params, schedule=schedule, **options)
        state, tree = tx.init(params), params
        for step in range(4):
            if step == 2:  # the first two steps of both are made at the rate 0.3
                state = set_rate_factor(state, factor)
                assert float(rate_factor(state)) == np.float32(factor)
            grads = jax.tree.map(lambda x: x * (step + 1.0), tree)  # noqa: B023
            updates, state = tx.update(grads, state, tree)
            tree = jax.tree.map(jnp.add, tree, updates)
        return tree

    kept, lowered = moved(1.0), moved(0.1)
    # Prodigy begins with rates of a millionth.
    assert helpers.max_difference(kept, lowered) > (1e-7 if name == "prodigy" else 1e-4)
    tx = make_optimizer(  # the schedule that does the same by itself
        params, schedule=lambda count: jnp.where(count < 2, 0.3, 0.03), **options
    )
    state, tree = tx.init(params), params
    for step in range(4):
        grads = jax.tree.map(lambda x: x * (step + 1.0), tree)  # noqa: B023
        updates, state = tx.update(grads, state, tree)
        tree = jax.tree.map(jnp.add, tree, updates)
    bar = 1e-9 if name == "prodigy" else 1e-6
    assert helpers.max_difference(tree, lowered) < bar


def test_a_new_factor_reaches_the_compiled_step(caplog):
    schedule = make_schedule("plateau", learning_rate=0.1, total_steps=10)
    tx = make_optimizer(
        {"head": {"kernel": jnp.zeros((2, 2))}}, name="sgd", schedule=schedule, weight_decay=0.0
    )
    assert rate_factor(tx.init({"head": {"kernel": jnp.zeros((2, 2))}})) == 1  # there is none

    shapes = helpers.make()[0].params
    tx = make_optimizer(
        shapes, name="sgd", schedule=schedule, weight_decay=0.0, with_rate_factor=True
    )
    state, step, mesh, _ = helpers.make(tx=tx)
    rates = []
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for factor in (1.0, 1.0, 0.5, 0.05):
            opt_state = set_rate_factor(state.opt_state, factor)
            state, found = step(
                state.replace(opt_state=opt_state), put_batch(helpers.batch(0), mesh)
            )
            rates.append(float(found["learning_rate"]))
    assert sum("Compiling jit(train_step)" in message for message in caplog.messages) == 1
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.005, 0.0005], rtol=1e-6)


# Twelve steps with an evaluation after every second one, which finds these losses.
FOUND = {2: 1.0, 4: 0.8, 6: 0.9, 8: 0.85, 10: 0.95, 12: 0.99}
QUICK = {
    "total_steps": 12,
    "checkpoint.every_steps": 3,
    "eval.every_steps": 2,
    "log.every_steps": 1,
    "ema_decay": 0.0,
}
PLATEAU = QUICK | {
    "schedule.name": "plateau",
    "schedule.plateau_factor": 0.5,
    "schedule.plateau_patience": 1,
}


@pytest.fixture
def evaluations(monkeypatch):
    """Evaluations that find FOUND; returns the steps they were made after."""
    made = []

    def evaluator(run):
        def evaluate(weights):
            (count,) = (x for x in jax.tree.leaves(state_of[0].step))
            made.append(int(count))
            return {"eval/loss": FOUND[made[-1]], "eval/accuracy": 0.5}

        return evaluate

    state_of = [None]
    train_step = Run.train_step

    def watched(run):
        step = train_step(run)

        def wrapped(*args):
            state, found = step(*args)
            state_of[0] = state
            return state, found

        return wrapped

    monkeypatch.setattr(Run, "evaluator", evaluator)
    monkeypatch.setattr(Run, "train_step", watched)
    return made


def die_at(monkeypatch, step):
    save = Checkpointer.save

    def save_then_die(self, number, *args):
        save(self, number, *args)
        if number == step:
            self.wait()
            raise Killed

    monkeypatch.setattr(Checkpointer, "save", save_then_die)


def test_plateau_lowers_the_rate_and_resumes_bit_for_bit(
    tmp_path, monkeypatch, evaluations, caplog
):
    with caplog.at_level(logging.INFO):
        whole = train(config(**PLATEAU), tmp_path / "whole")
    rates = {
        m["step"]: m["train/learning_rate"]
        for m in metrics(tmp_path / "whole")[::1]
        if "train/learning_rate" in m
    }
    # Steps 6 and 8 are the second in a row without improvement on step 4, and so are 10 and 12.
    np.testing.assert_allclose(list(rates.values()), [5e-3] * 8 + [2.5e-3] * 4, rtol=1e-6)
    assert "Step 8: eval/loss has not improved on 0.8" in caplog.text
    assert float(rate_factor(whole.opt_state)) == 0.25  # lowered again by the last evaluation
    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        die_at(patch, 10)  # after a drop, and with one bad evaluation since then
        with pytest.raises(Killed):
            train(config(**PLATEAU), folder)
    helpers.assert_equal(train(config(**PLATEAU), folder), whole)
    assert losses(folder) == losses(tmp_path / "whole")


def test_early_stopping_ends_the_run_for_good(tmp_path, monkeypatch, evaluations, caplog):
    options = QUICK | {"early_stopping.patience": 2}
    with caplog.at_level(logging.INFO):
        whole = train(config(**options), tmp_path / "whole")
    reason = "stopped early: the best eval/loss, 0.8, is that of step 4, 2 evaluations ago"
    assert f"The run is finished: step 8 of 12, {reason}" in caplog.text
    assert int(whole.step) == 8 and list(losses(tmp_path / "whole")) == list(range(1, 9))

    before = (tmp_path / "whole" / "metrics.jsonl").read_text()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        helpers.assert_equal(train(config(**options), tmp_path / "whole"), whole)
    assert f"The run is finished: step 8 of 12, {reason}" in caplog.text
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == before

    with monkeypatch.context() as patch:
        die_at(patch, 6)
        with pytest.raises(Killed):
            train(config(**options), tmp_path / "killed")
    helpers.assert_equal(train(config(**options), tmp_path / "killed"), whole)
    # More patience goes on where it ended.
    longer = train(config(**options | {"early_stopping.patience": 3}), tmp_path / "whole")
    assert int(longer.step) == 10
    assert evaluations == [2, 4, 6, 8, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule.plateau_factor": 1.0}, "plateau_factor must be above 0 and below 1, got 1.0"),
        ({"schedule.plateau_metric": "eval_ema/loss"}, "plateau_metric must be one of eval/acc"),
        ({"schedule.plateau_mode": "least"}, "plateau_mode must be one of auto, min, max"),
        ({"schedule.plateau_threshold_mode": "relative"}, "did you mean 'rel'"),
        ({"schedule.plateau_patience": -1}, "plateau_patience must be in 0"),
        ({"eval.every_steps": 0}, "name=plateau needs evaluations during the run; set"),
        (
            {"optimizer.rules": (("head", {"schedule": {"name": "plateau"}}),)},
            "one for all parameters",
        ),
        (
            {"early_stopping.patience": 2, "early_stopping.metric": "loss"},
            "early_stopping.metric must be one of eval/accuracy",
        ),
        (
            {"early_stopping.patience": 2, "eval.every_steps": 0, "schedule.name": "constant"},
            "early_stopping.patience needs evaluations",
        ),
    ],
)
def test_wrong_options_are_one_clear_error(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train(config(**PLATEAU | options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_less_of_a_loss_is_better(tmp_path):
    state, *_ = helpers.make()
    with Checkpointer(tmp_path, keep=1, best_metric="eval/loss") as checkpointer:
        for step, loss in ((1, 0.7), (2, 0.5), (3, 0.9)):
            checkpointer.save(step, state, {"examples_seen": 0}, {"eval/loss": loss})
        checkpointer.wait()
        assert checkpointer.best_step == 2 and checkpointer.steps == [2, 3]
