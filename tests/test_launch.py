"""The command line as a user types it."""

import os
import pathlib
import signal

from launching import CACHE, launch, start, wait_for_step
from opening import make_run
from train import helpers

from configs import smoke
from jaxvision.command_line import use_deterministic_kernels
from jaxvision.train.checkpoint import Checkpointer


def test_smoke_from_the_command_line(tmp_path):
    arguments = (
        "--config=configs/smoke.py",
        f"--workdir={tmp_path}/run",
        CACHE,
    )
    result = launch(*arguments)
    assert result.returncode == 0, result.stderr
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"config.json", "versions.json", "metrics.jsonl", "checkpoints"} <= files
    assert {"curves.png", "predictions.png"} <= files
    assert any("tfevents" in p.name for p in (tmp_path / "run").rglob("*"))

    again = launch(*arguments)
    assert again.returncode == 0 and "The run is finished" in again.stderr
    evaluated = launch(*arguments, "--mode=eval")
    assert evaluated.returncode == 0 and "eval/accuracy" in evaluated.stderr


def final_state(workdir):
    checkpointer = Checkpointer(pathlib.Path(workdir) / "checkpoints")
    state, position, step = checkpointer.restore(make_run(smoke.get_config()).abstract_state)
    checkpointer.close()
    return state, position, step


def test_killed_run_ends_bit_for_bit_like_the_uninterrupted_one(tmp_path):
    arguments = ["--config=configs/smoke.py", CACHE]
    assert launch(*arguments, f"--workdir={tmp_path}/whole").returncode == 0

    killed = start(*arguments, f"--workdir={tmp_path}/killed")
    wait_for_step([killed], tmp_path / "killed", 10)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, "the run ended before it was killed"

    assert launch(*arguments, f"--workdir={tmp_path}/killed").returncode == 0
    (whole, *position), (resumed, *again) = (
        final_state(tmp_path / name) for name in ("whole", "killed")
    )
    helpers.assert_equal(resumed, whole)
    assert position == again


def test_deterministic_adds_to_the_flags_of_xla(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=there")
    use_deterministic_kernels()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=there --xla_gpu_deterministic_ops=true"
