"""SIGTERM and SIGINT at any moment: saved, 143 or 130, and the same end as without them."""

import os
import signal
import sys
import time

import launching
import pytest
from torture import runs

from configs import smoke

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the codes are those of Linux"),
]


def in_the_first_compilation(run, rng):
    run.wait_for_log(" steps of 16.")  # the last line before it
    time.sleep(rng.uniform(0.5, 3))
    assert launching.logged_step(run.workdir) == 0
    return "in the first compilation"


def after_a_step(run, rng):
    run.wait_for_step(rng.randint(1, 19))
    time.sleep(rng.uniform(0, 0.2))
    return f"after step {launching.logged_step(run.workdir)}"


def during_a_save(run, rng):
    run.wait_for_step(rng.randint(1, 19))
    while not runs.saves_in_flight(run.workdir) and run.process.poll() is None:
        time.sleep(0.001)
    return f"during a save after step {launching.logged_step(run.workdir)}"


@pytest.mark.parametrize("moment", [in_the_first_compilation, after_a_step, during_a_save])
def test_signal_saves_and_ends(tmp_path, whole, moment):
    rng = runs.new_rng(moment.__name__)
    signum = rng.choice([signal.SIGTERM, signal.SIGINT])
    cold = [f"--config.compilation_cache={tmp_path}/cache"] * (moment is in_the_first_compilation)
    run = runs.Run(smoke, tmp_path / "run", *cold)
    when = moment(run, rng)
    run.process.send_signal(signum)
    assert run.end() == 128 + signum, run.log
    assert f"Stopped by {signum.name} after step" in run.log and "Traceback" not in run.log
    runs.finish(smoke, tmp_path / "run")
    runs.assert_same_end(f"{signum.name} {when}", smoke, tmp_path / "run", whole)


@pytest.mark.parametrize("moment", ["before the first batch", "in an evaluation"])
def test_signal_to_the_workers_too(tmp_path, whole, moment):
    """Ctrl-C in a terminal and `scancel` reach every process of a run."""
    rng = runs.new_rng(moment)
    signum = rng.choice([signal.SIGTERM, signal.SIGINT])
    workers = "--config.data.num_workers=2"
    run = runs.Run(smoke, tmp_path / "run", workers, start_new_session=True)
    if moment == "in an evaluation":
        run.wait_for_step(20)
    else:
        run.wait_for_log(" steps of 16.")
    time.sleep(rng.uniform(0.1, 1.5))
    os.killpg(run.process.pid, signum)
    assert run.end() == 128 + signum, run.log
    assert "Traceback" not in run.log, run.log
    run.assert_nothing_survives()
    runs.finish(smoke, tmp_path / "run", workers)
    case = f"{signum.name} to the workers too, {moment}"
    runs.assert_same_end(case, smoke, tmp_path / "run", whole)


def test_second_sigint_does_not_wait_for_the_step(tmp_path):
    slow = launching.options(batch_size=1024, data__image_size=96, data__shapes__num_train=8192)
    run = runs.Run(smoke, tmp_path / "run", *slow)
    run.wait_for_log(" steps of 1024.")
    time.sleep(1)
    run.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert run.process.poll() is None, "the first one waits for the step"
    started = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130, run.log
    runs.logger.info("second SIGINT: ended after %.1f s", time.monotonic() - started)
    assert "Interrupted" in run.log and "Traceback" not in run.log
    assert not any((tmp_path / "run" / "checkpoints").iterdir())
