"""Stochastic averages against the plain mean, and in whole runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from opening import evaluate_run, make_run, train
from train import helpers
from train.test_loop import Killed, config, metrics

from jaxvision import __main__ as command
from jaxvision.errors import InputError
from jaxvision.interop.load import load_weights
from jaxvision.train.checkpoint import Checkpointer
from jaxvision.train.optim.weight_average import Swa
from jaxvision.train.sharding import put_batch


def _poison(images):
    return jnp.where(jnp.all(images == 255), jnp.nan, helpers.preprocess(images))


def test_average_is_the_mean_of_the_weights_that_count():
    swa = Swa(start=2, every=3)
    state, step, mesh, _ = helpers.make(
        build=helpers.build_resnet, average=swa, preprocess_fn=_poison
    )
    bad = helpers.batch(0)
    bad["image"][:] = 255
    counted, updates = [], 0
    for i in range(10):
        batch = bad if i in (1, 6) else helpers.batch(i)  # those change nothing, and count nothing
        state, found = step(state, put_batch(batch, mesh))
        updates += i not in (1, 6)
        weights = jax.device_get((state.params, state.batch_stats))
        if updates < 2:
            # XLA may compute the statistics twice, and round them differently.
            assert helpers.max_difference((state.ema_params, state.ema_batch_stats), weights) < 1e-6
        elif i not in (1, 6) and (updates - 2) % 3 == 0:
            counted.append(weights)
        if counted:
            mean = jax.tree.map(lambda *x: np.mean(x, axis=0, dtype=np.float64), *counted)
            mean = jax.tree.map(np.float32, mean)
            assert helpers.max_difference((state.ema_params, state.ema_batch_stats), mean) < 1e-6
    assert len(counted) == 3 and int(found["skipped_steps"]) == 2


RESNET = {
    "model.name": "resnet18",
    "model.kwargs": dict(stage_widths=(8, 16), stage_depths=(1, 1), stem="cifar"),
    "ema_decay": 0.0,
    "swa.start_steps": 4,
    "swa.every_steps": 2,
    "swa.learning_rate": 1e-3,
    "swa.anneal_steps": 3,
    "swa.batch_norm_batches": 3,
    "total_steps": 10,
    "checkpoint.every_steps": 3,
    "checkpoint.best_metric": "eval_swa/accuracy",
    "eval.every_steps": 5,
    "log.every_steps": 1,
}


def test_run_averages_recalibrates_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    whole = train(config(**RESNET), tmp_path / "whole")
    recorded = metrics(tmp_path / "whole")
    evaluations = [m for m in recorded if "eval_swa/loss" in m]
    assert [m["step"] for m in evaluations] == [5, 10]
    rates = [m["train/learning_rate"] for m in recorded if "train/learning_rate" in m]
    np.testing.assert_allclose(rates[7:], 1e-3, rtol=1e-6)  # step 8 comes after 4 + 3 updates
    assert rates[4] > 1e-3

    # What is saved is what was evaluated: the statistics of three training batches.
    run = make_run(config(**RESNET))
    again = run.recalibrator(3)(whole.ema_params, jax.tree.map(jnp.zeros_like, whole.batch_stats))
    helpers.assert_equal(again, whole.ema_batch_stats)
    found = evaluate_run(config(**RESNET), tmp_path / "whole")
    last = evaluations[-1]
    assert found == {k: v for m in recorded if m["step"] == 10 for k, v in m.items() if k in found}
    assert found["eval_swa/loss"] == last["eval_swa/loss"] != found["eval/loss"]

    save = Checkpointer.save

    def save_then_die(self, step, *args):
        save(self, step, *args)
        if step == 6:
            self.wait()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_then_die)
        with pytest.raises(Killed):
            train(config(**RESNET), tmp_path / "parts")
    helpers.assert_equal(train(config(**RESNET), tmp_path / "parts"), whole)

    # In an evaluation, any weights may get statistics of their own.
    changed = evaluate_run(config(**RESNET | {"eval.batch_norm_batches": 3}), tmp_path / "whole")
    assert changed["eval_swa/loss"] == found["eval_swa/loss"]
    assert changed["eval/loss"] != found["eval/loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"swa.start_steps": 10}, "swa.start_.* must lie inside the run of 10 updates, got 10"),
        ({"swa.start_epochs": 1.0}, r"swa.start_\* in one unit"),
        ({"ema_decay": 0.9}, "one average"),
        ({"swa.curve": "step"}, "swa.curve must be one of cosine, linear"),
        ({"swa.start_steps": 0}, "best_metric must be one of eval/accuracy"),
        ({"swa.learning_rate": -1.0}, "swa.learning_rate must be in"),
    ],
)
def test_wrong_options_are_one_clear_error(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train(config(**RESNET | options), tmp_path / "run")


def test_command_averages_the_last_checkpoints(tmp_path, capsys, monkeypatch):
    options = RESNET | {"checkpoint.keep": 3, "checkpoint.best_metric": "eval/accuracy"}
    options |= {"swa.start_steps": 0, "total_steps": 6, "checkpoint.every_steps": 2}
    options |= {"eval.every_steps": 0, "mesh.data": -1}
    run_folder, out = tmp_path / "run", tmp_path / "mean.safetensors"
    train(config(**options), run_folder, devices=8)
    run = make_run(config(**options), devices=8)  # all, as the command uses them
    with Checkpointer(run_folder / "checkpoints", read_only=True) as checkpointer:
        states = [checkpointer.restore(run.abstract_state, step=step)[0] for step in (4, 6)]
    params, stats = jax.tree.map(
        lambda a, b: ((np.float64(a) + np.float64(b)) / 2).astype(np.float32),
        *[jax.device_get((state.params, state.batch_stats)) for state in states],
    )

    def loaded():
        model = run.build(nnx.Rngs(1))
        load_weights(model, str(out))
        _, *trees = nnx.split(model, nnx.Param, nnx.BatchStat)
        return tuple(jax.device_get(nnx.to_pure_dict(tree)) for tree in trees)

    monkeypatch.setattr(command, "quiet_libraries", lambda: None)
    assert command.main(["average", str(run_folder), str(out), "--last=2"]) == 0
    assert "the mean of the steps 4, 6" in capsys.readouterr().out
    helpers.assert_equal(loaded(), (params, stats))

    arguments = ["average", str(run_folder), str(out), "--last=2", "--recalibrate=3"]
    assert command.main(arguments) == 0
    helpers.assert_equal(loaded(), (params, jax.device_get(run.recalibrator(3)(params, stats))))
    assert command.main(["average", str(run_folder), str(out), "--last=4"]) == 2
    assert "3 checkpoints, 4 are wanted: give --last=3, or" in capsys.readouterr().err
