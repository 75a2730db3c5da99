"""A whole run with a teacher: its weights, what is refused, where it ends after a kill."""

import json

import jax
import numpy as np
import pytest
from opening import evaluate_run, make_run, train
from train import helpers

from configs import smoke
from jaxvision.errors import InputError
from jaxvision.interop.trained import open_trained
from jaxvision.profiling.memory import StepMemory
from jaxvision.train.checkpoint import Checkpointer


def config(**options):
    config = smoke.get_config()
    config.mesh.data = 1
    config.schedule.warmup_steps = 1
    defaults = {"total_steps": 2, "eval.every_steps": 100, "data.shapes.num_eval": 48}
    with config.unlocked():
        config.update_from_flattened_dict(defaults | options)
    return config


CNN = {
    "model.name": "resnet18",
    "model.kwargs": dict(stage_widths=(8, 16), stage_depths=(1, 1), stem="cifar"),
    "ema_decay": 0.0,
    "log.every_steps": 1,
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    train(config(**CNN, **{"checkpoint.every_steps": 1}), folder)
    return folder


def student(teacher, **options):
    defaults = {"distill.teacher_weights": str(teacher), "distill.features": "mse"}
    return config(**(defaults | {"total_steps": 4, "checkpoint.every_steps": 2} | options))


def test_killed_and_resumed_ends_bit_for_bit_where_it_would_have(teacher, tmp_path, monkeypatch):
    whole = train(student(teacher), tmp_path / "whole")
    save = Checkpointer.save

    def save_then_die(self, step, *args):
        save(self, step, *args)
        self.wait()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            train(student(teacher), tmp_path / "parts")
    # Another teacher is refused, and so would be the next checkpoint of one that trains on.
    older = teacher / "checkpoints" / "1"
    with pytest.raises(InputError, match="began with another teacher.*step 2.*step 1"):
        train(student(older), tmp_path / "parts")
    # The same weights at another place are not.
    resumed = train(student(teacher / "checkpoints" / "2"), tmp_path / "parts")
    helpers.assert_equal(resumed, whole)

    # The student alone is what is evaluated, and what others read.
    results = evaluate_run(student(teacher), tmp_path / "whole")
    assert 0 <= results["eval/accuracy"] <= 1
    trained = open_trained(str(tmp_path / "whole"))
    assert not hasattr(trained.model, "distill_projection")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").open()]
    assert {"train/teacher_agreement", "train/teacher_loss", "train/feature_loss"} <= set(lines[0])


def test_preflight_counts_the_teacher(teacher):
    run = make_run(student(teacher, **{"distill.features": "none"}))
    parts = StepMemory(run).state_parts()
    arrays = jax.tree.leaves(run.task.constants)
    assert parts["teacher"] == sum(x.nbytes for x in arrays) > 0
    assert "teacher" not in StepMemory(make_run(config())).state_parts()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill.teacher_weights": ""}, "needs weights.*teacher_weights=FILE"),
        ({"distill.teacher": "resnet50"}, "is a run of resnet18, not of resnet50"),
        ({"model.num_classes": 9}, "knows 8 classes, the student 9"),
        ({"distill.feature_stride": 4}, "student has maps of the strides 8, none of"),
        ({"distill.loss": "sfot"}, "did you mean 'soft'"),
        ({"distill.features": "l2"}, "one of none, mse, cosine"),
        ({"distill.image_size": (32,)}, "image_size must be pixels"),
        ({"distill.alpha": 1.5}, "distill.alpha must be in 0.0..1.0"),
        ({"loss.target_threshold": 0.2}, "is for --config.loss.name=bce"),
        ({"loss.name": "binary"}, "loss.name must be one of"),
        ({"loss.label_smoothing": 0.9, "loss.smoothing_over": "wrong"}, r"in \[0, 0.875\)"),
    ],
)
def test_wrong_options_are_refused(teacher, options, message):
    with pytest.raises(InputError, match=message):
        make_run(student(teacher, **options))


def test_a_teacher_is_asked_for_its_classes_by_name(teacher, tmp_path):
    (folder := tmp_path / "renamed").symlink_to(teacher)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        if path.name != "classes.txt":
            (copy / path.name).symlink_to(path)
    names = (teacher / "classes.txt").read_text().splitlines()
    (copy / "classes.txt").write_text("\n".join(names[::-1]) + "\n")
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    tasks = [make_run(student(path)).task for path in (teacher, copy)]
    logits = [jax.jit(task.teacher)(task.weights, images)[0] for task in tasks]
    np.testing.assert_array_equal(logits[1], logits[0][:, ::-1])
    (copy / "classes.txt").write_text("\n".join(["fox", *names[1:]]) + "\n")
    message = f"has 'fox' and lacks '{names[0]}' among its classes, which must be those of the"
    with pytest.raises(InputError, match=message):
        make_run(student(copy))
