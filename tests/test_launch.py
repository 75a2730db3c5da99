"""The command line as a user types it."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest
from train import helpers

from configs import smoke
from jaxvision.train.checkpoint import Checkpointer
from jaxvision.train.setup import make_run

# Compiled programs are shared by all launches, and with the next run of the tests.
CACHE = f"--config.compilation_cache={jax.config.jax_compilation_cache_dir}"
ROOT = pathlib.Path(__file__).parent.parent


def start(*arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XLA_")}
    return subprocess.Popen(
        [sys.executable, "launch.py", *arguments],
        cwd=ROOT,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(*arguments, timeout=240):
    with start(*arguments) as process:
        out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.optmizer.name=sgd"], "optimizer"),
        (["--config.optimizer.learning_rat=1"], "learning_rate"),
        (["--config.batch_size=many"], "batch_size"),
        (["--config=configs/nothing.py"], "nothing.py"),
        (["--mode=dance"], "dance"),
        (["--config=configs/vit_b16.py:mnist"], "mnist"),
        (["--config=configs/vit_b16.py:imagenet2012"], "configs/quickstart.py"),
        (["--config=configs/vit_b16.py:folder"], "configs/quickstart.py"),
        (["--config=configs/vit_b16.py:cifar10"], "configs/quickstart.py"),
        (["--config.data.image_size=30"], "30"),
    ],
)
def test_mistakes_end_with_code_2_and_one_message(tmp_path, arguments, message):
    if not arguments[0].startswith("--config="):
        arguments = ["--config=configs/smoke.py", *arguments]
    result = launch(*arguments, f"--workdir={tmp_path}/run")
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def final_state(workdir):
    checkpointer = Checkpointer(pathlib.Path(workdir) / "checkpoints")
    state, position, step = checkpointer.restore(make_run(smoke.get_config()).abstract_state())
    checkpointer.close()
    return state, position, step


def test_killed_run_ends_bit_for_bit_like_the_uninterrupted_one(tmp_path):
    arguments = ["--config=configs/smoke.py", CACHE]
    assert launch(*arguments, f"--workdir={tmp_path}/whole").returncode == 0

    killed = start(*arguments, f"--workdir={tmp_path}/killed")
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and '"step": 10' not in (
        metrics.read_text() if metrics.exists() else ""
    ):
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, "the run ended before it was killed"

    assert launch(*arguments, f"--workdir={tmp_path}/killed").returncode == 0
    (whole, *position), (resumed, *again) = (
        final_state(tmp_path / name) for name in ("whole", "killed")
    )
    helpers.assert_equal(resumed, whole)
    assert position == again
