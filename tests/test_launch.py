"""The command line as a user types it."""

import os
import pathlib
import signal

import pytest
from launching import CACHE, launch, start, wait_for_step
from opening import make_run
from train import helpers

from configs import smoke
from jaxvision.command_line import use_deterministic_kernels
from jaxvision.train.checkpoint import Checkpointer

ARGUMENTS = ("--config=configs/smoke.py", CACHE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = launch(*ARGUMENTS, f"--workdir={folder}")
    assert result.returncode == 0, result.stderr
    return folder


def test_smoke_from_the_command_line(whole):
    files = {p.name for p in whole.iterdir()}
    assert {"config.json", "versions.json", "metrics.jsonl", "checkpoints"} <= files
    assert {"curves.png", "predictions.png"} <= files
    assert any("tfevents" in p.name for p in whole.rglob("*"))

    arguments = (*ARGUMENTS, f"--workdir={whole}")
    again = launch(*arguments)
    assert again.returncode == 0 and "The run is finished" in again.stderr
    evaluated = launch(*arguments, "--mode=eval")
    assert evaluated.returncode == 0 and "eval/accuracy" in evaluated.stderr


def final_state(workdir):
    checkpointer = Checkpointer(pathlib.Path(workdir) / "checkpoints")
    state, position, step = checkpointer.restore(make_run(smoke.get_config()).abstract_state)
    checkpointer.close()
    return state, position, step


def test_killed_run_ends_bit_for_bit_like_the_uninterrupted_one(whole, tmp_path):
    killed = start(*ARGUMENTS, f"--workdir={tmp_path}/killed")
    wait_for_step([killed], tmp_path / "killed", 10)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, "the run ended before it was killed"

    assert launch(*ARGUMENTS, f"--workdir={tmp_path}/killed").returncode == 0
    expected, *position = final_state(whole)
    resumed, *again = final_state(tmp_path / "killed")
    helpers.assert_equal(resumed, expected)
    assert position == again


def test_deterministic_adds_to_the_flags_of_xla(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=there")
    use_deterministic_kernels()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=there --xla_gpu_deterministic_ops=true"
