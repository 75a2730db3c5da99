"""One of two processes dies: the other ends soon and says so, and both go on where they were."""

import json
import signal
import sys
import time

import launching
import pytest
from torture import runs

HEARTBEAT_SECONDS = 100
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the codes are those of Linux"),
]


def start(workdir, count):
    return launching.start_processes(
        count,
        "--config=configs/smoke.py",
        f"--workdir={workdir}",
        launching.CACHE,
        *launching.options(
            data__image_size=96,  # slow enough to be killed in the middle
            total_steps=runs.STEPS,
            # A process that waits for the other in a save learns of its death by the heartbeat,
            # one that waits in a step at once; here it is the step nearly always.
            checkpoint__every_steps=10,
            eval__every_steps=0,
            log__every_steps=1,
        ),
    )


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").open())
    return [(m["step"], m[k]) for m in lines for k in ("train/loss", "eval/loss") if k in m]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    codes, log = launching.finish(start(workdir, 2))
    assert codes == [0, 0], log
    return losses(workdir)


@pytest.mark.parametrize("victim", [0, 1], ids=["coordinator", "other"])
def test_dead_peer(tmp_path, expected, victim):
    rng = runs.new_rng(f"peer {victim}")
    processes = start(tmp_path / "run", 2)
    # The second save has begun, so the first one is complete.
    launching.wait_for_step(processes, tmp_path / "run", rng.randint(21, 28))
    processes[victim].send_signal(signal.SIGKILL)
    step = launching.logged_step(tmp_path / "run")
    started = time.monotonic()
    code = processes[1 - victim].wait(timeout=HEARTBEAT_SECONDS + 20)
    seconds = time.monotonic() - started
    codes, log = launching.finish(processes)
    assert code != 0 and codes[victim] == -signal.SIGKILL, log
    # The second is what jax says, which ends the process itself where the coordinator is gone.
    assert "look at the log of that one" in log or "another task died" in log, log

    codes, log = launching.finish(start(tmp_path / "run", 2))
    assert codes == [0, 0] and "Resumed from step" in log, log
    assert losses(tmp_path / "run") == [(n, pytest.approx(x, rel=1e-5)) for n, x in expected]
    runs.logger.info(
        "process %d of 2 killed after step %d: the other ended after %.1f s with %d, and both went "
        "on; seed %d", victim, step, seconds, code, runs.SEED,
    )  # fmt: skip
