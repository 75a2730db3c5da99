"""Runs of configs/smoke.py inside one process."""

import json
import logging
import pathlib
import signal

import jax
import numpy as np
import pytest
from opening import evaluate_run, train
from train import helpers

from configs import smoke
from jaxvision.errors import InputError
from jaxvision.train.checkpoint import Checkpointer
from jaxvision.train.monitor import TrainingDiverged, TrainLog
from jaxvision.train.run import Run
from jaxvision.train.stop import Stopped


def config(**options):
    config = smoke.get_config()
    config.mesh.data = 1
    config.schedule.warmup_steps = 1
    with config.unlocked():
        config.update_from_flattened_dict(options)
    return config


def metrics(workdir):
    return [json.loads(line) for line in (pathlib.Path(workdir) / "metrics.jsonl").open()]


def losses(workdir):
    return {m["step"]: m["train/loss"] for m in metrics(workdir) if "train/loss" in m}


def test_smoke_trains_and_leaves_its_files(tmp_path):
    state = train(config(), tmp_path)
    assert int(state.step) == 30
    curve = losses(tmp_path)
    assert list(curve) == [1, 2, 5, 10, 15, 20, 25, 30]
    assert curve[30] < curve[1]
    last = metrics(tmp_path)[-1] | metrics(tmp_path)[-2]
    assert {"eval/accuracy", "eval/loss", "eval/top5_accuracy", "eval_ema/accuracy"} <= set(last)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} >= {"30"}
    assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 16
    assert json.loads((tmp_path / "versions.json").read_text())["jax"] == jax.__version__


def test_cadences_in_epochs_and_a_line_for_each(tmp_path, caplog):
    """Of 40 images in batches of 16: an epoch is 2.5 steps."""
    options = {"data.shapes.num_train": 40, "total_steps": 6, "log.every_steps": 1}
    options |= {"eval.every_steps": 0, "eval.every_epochs": 1.0, "augment.mixup_alpha": 0.0}
    options |= {"checkpoint.every_steps": 0, "ema_decay": 0.0}
    with caplog.at_level(logging.INFO, logger="jaxvision"):
        train(config(**options), tmp_path)
    records = metrics(tmp_path)
    evaluations = {m["step"]: m["eval/accuracy"] for m in records if "eval/accuracy" in m}
    assert list(evaluations) == [2, 5, 6]
    trained = {m["step"]: m for m in records if "train/loss" in m}
    lines = [record.message for record in caplog.records if record.message.startswith("epoch ")]
    for line, steps, epoch in zip(lines, ([1, 2], [3, 4, 5], [6]), ("1", "2", "2.4"), strict=True):
        loss, accuracy = (
            np.mean([trained[step][f"train/{name}"] for step in steps])
            for name in ("loss", "accuracy")
        )
        told = (
            f"loss {loss:.4g}, accuracy {accuracy:.4g}, eval accuracy {evaluations[steps[-1]]:.4g}"
        )
        assert line.startswith(f"epoch {epoch}/2.4: {told}, ")
        assert line.endswith(f", {16 * steps[-1]} images seen")


def test_images_need_not_be_square(tmp_path):
    options = {"total_steps": 2, "data.image_size": (24, 40)}
    assert int(train(config(**options), tmp_path).step) == 2


def test_finished_run_says_so_and_is_not_touched(tmp_path, caplog):
    first = train(config(total_steps=3), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    with caplog.at_level(logging.INFO):
        again = train(config(total_steps=3), tmp_path)
    assert "The run is finished: step 3 of 3" in caplog.text
    assert (tmp_path / "metrics.jsonl").read_text() == before
    helpers.assert_equal(first, again)


def test_changed_options_are_refused_unless_the_run_shall_go_on(tmp_path):
    first = {"total_steps": 2, "log.to": ()}
    train(config(**first), tmp_path)
    with pytest.raises(InputError, match="config.total_steps is 3 here and 2 there"):
        train(config(**first | {"total_steps": 3}), tmp_path)  # another learning rate at each step
    changed = first | {"total_steps": 3, "seed": 5, "optimizer.learning_rate": 1e-3}
    with pytest.raises(InputError, match=r"seed is 5 here and 0 there.*--config.resume_changed"):
        train(config(**changed), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0
    assert int(train(config(**changed, resume_changed=True), tmp_path).step) == 3
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 5
    assert int(train(config(**changed), tmp_path).step) == 3  # from here on, the run is that one


class Killed(Exception):
    pass


# Of a ViT, test_launch.py kills the whole process.
@pytest.mark.parametrize("family", [pytest.param("vit", marks=pytest.mark.repeats), "resnet"])
def test_interrupted_run_ends_bit_for_bit_like_the_uninterrupted_one(tmp_path, monkeypatch, family):
    options = {"total_steps": 12, "checkpoint.every_steps": 4, "eval.every_steps": 100}
    options |= {"log.every_steps": 1}
    if family == "resnet":
        options |= {"model.name": "resnet18", "accumulate_steps": 2}
        options |= {"model.kwargs": dict(stage_widths=(8, 16), stage_depths=(1, 1), stem="cifar")}
    whole = train(config(**options), tmp_path / "whole")

    save = Checkpointer.save

    def save_then_die(self, step, *args):
        save(self, step, *args)
        if step == 8:
            self.wait()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_then_die)
        with pytest.raises(Killed):
            train(config(**options), tmp_path / "parts")
    resumed = train(config(**options), tmp_path / "parts")
    helpers.assert_equal(resumed, whole)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_signal_saves_at_the_step_boundary_and_resumes(tmp_path, monkeypatch):
    options = {"total_steps": 8, "checkpoint.every_steps": 100, "eval.every_steps": 100}
    whole = train(config(**options), tmp_path / "whole")
    add = TrainLog.add

    def add_and_signal(self, step, metrics):
        add(self, step, metrics)
        if step == 4:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TrainLog, "add", add_and_signal)
        with pytest.raises(Stopped, match="SIGTERM after step 4") as stopped:
            train(config(**options), tmp_path / "parts")
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert list(losses(tmp_path / "parts")) == [1, 2, 4]  # step 4 is not due, but not lost
    helpers.assert_equal(train(config(**options), tmp_path / "parts"), whole)
    assert list(losses(tmp_path / "parts")) == [1, 2, 4, 5, 8]  # no point of its own for step 6


def test_divergence_names_step_and_records(tmp_path, monkeypatch):
    put = Run.put
    calls = []

    def poisoned(self, batch):
        calls.append(batch["index"])
        batch = put(self, batch)
        if len(calls) > 3:
            batch["label"] = batch["label"] + np.int32(10_000)  # take_along_axis fills with NaN
        return batch

    monkeypatch.setattr(Run, "put", poisoned)
    options = {"max_skipped_steps": 2, "augment.mixup_alpha": 0.0}
    with pytest.raises(TrainingDiverged, match="2 steps in a row, from step 4 on") as error:
        train(config(**options), tmp_path)
    assert str(calls[3][:8].tolist())[1:-1] in str(error.value)


def test_evaluate_run_repeats_the_last_evaluation(tmp_path):
    train(config(total_steps=3), tmp_path)
    recorded = {k: v for m in metrics(tmp_path) for k, v in m.items() if k.startswith("eval")}
    assert evaluate_run(config(total_steps=3), tmp_path) == recorded


def test_workdir_of_another_run_is_refused(tmp_path):
    train(config(total_steps=2), tmp_path)
    with pytest.raises(InputError, match="config.batch_size is 32 here and 16 there"):
        train(config(total_steps=2, batch_size=32), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_epochs": 1.0}, "exactly one of"),
        ({"batch_size": 15, "accumulate_steps": 2}, "multiple of 2"),
        ({"model.name": "vit_b17"}, "vit_b16"),
        ({"model.kwargs": {"widht": 3}}, "widht"),
        ({"data.image_size": 30}, "30"),
        ({"task": "detection"}, "classification"),
        ({"data.image_size": (32, 32, 3)}, "height, width"),
        ({"checkpoint.best_metric": "accuracy"}, "eval/accuracy"),
        ({"augment.crop": "middle"}, "augment.crop must be one of"),
        ({"data.num_workers": -1}, "num_workers must be in"),
        ({"augment.mixup_alpha": -1.0}, "mixup_alpha must be in"),
        ({"data.name": "folder", "data.path": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_config_is_one_clear_error(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train(config(**options), tmp_path / "run")
    assert not (tmp_path / "run").exists()
