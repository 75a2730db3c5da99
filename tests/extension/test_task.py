"""A task outside the package trains, is evaluated, resumes and is refused in one sentence."""

import json
import pathlib
import sys

import pytest
from opening import evaluate_run, make_run, train

from configs import smoke
from jaxvision.errors import InputError
from jaxvision.tasks.registry import check_stored_task


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent))


def config(**options):
    config = smoke.get_config()
    with config.unlocked():
        config.task = "ordered_task:Ordered"
        config.augment.mixup_alpha = 0.0
        config.checkpoint.best_metric = "eval/distance_loss"
        config.update_from_flattened_dict({"total_steps": 4, "schedule.warmup_steps": 1} | options)
    return config


def test_it_trains_and_is_evaluated(tmp_path):
    train(config(**{"total_steps": 2}), tmp_path)
    train(config(resume_changed=True), tmp_path)  # resumes, and is longer
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert any("train/distance" in line for line in lines)
    last = [line for line in lines if "eval/distance_loss" in line][-1]
    assert last["step"] == 4 and 0 < last["eval/distance_loss"] < 7
    found = evaluate_run(config(), tmp_path)
    assert found["eval/distance_loss"] == pytest.approx(last["eval/distance_loss"])
    assert json.loads((tmp_path / "config.json").read_text())["task"] == "ordered_task:Ordered"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("no_such_module:Task", "no module 'no_such_module'.* mypackage.mytask:MyTask"),
        (
            "ordered_task:Missing",
            "must lead to a subclass of Task, but .Missing. does not exist in ordered_task, which",
        ),
        ("ordered_task:jnp", "'jnp' is a module in ordered_task"),
        ("orderd", "must be one of classification, multi_label, captioning"),
    ],
)
def test_what_is_no_task_is_refused(task, message):
    with pytest.raises(InputError, match=message):
        make_run(config(task=task))


def test_its_metrics_may_decide():
    with pytest.raises(InputError, match="must be one of eval/accuracy.*eval/distance_loss"):
        make_run(config(**{"checkpoint.best_metric": "eval/distance"}))


def test_a_folder_does_not_decide_which_code_runs(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "ordered_task", raising=False)
    with pytest.raises(InputError, match="whose code is not imported because a folder says so"):
        check_stored_task("ordered_task:Ordered", where=str(tmp_path))
    assert "ordered_task" not in sys.modules
    check_stored_task("captioning", where=str(tmp_path))
