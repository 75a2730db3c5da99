"""SIGKILL at random moments: the run ends bit for bit like one that nobody touched."""

import signal
import sys
import time

import launching
import pytest
from torture import averaging, growing, half, plateau, resnet, runs, unfreezing

from configs import smoke

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]


def kill(run):
    """Kills at once, and then nothing of the launch is left, its workers included."""
    run.process.send_signal(signal.SIGKILL)
    assert run.end() == -signal.SIGKILL, f"it had ended before: {run.log}"
    run.assert_nothing_survives()


def at_any_time(run, rng, seconds):
    end = time.monotonic() + rng.uniform(0, seconds)
    # Not so late that there is nothing left for the other kills.
    while time.monotonic() < end and launching.logged_step(run.workdir) < runs.STEPS // 2:
        time.sleep(0.005)
    kill(run)
    return f"step {launching.logged_step(run.workdir)} (a random time after the start)"


def at_a_step(run, rng, seconds):
    step = launching.logged_step(run.workdir) + rng.randint(1, 6)
    run.wait_for_step(step)
    time.sleep(rng.uniform(0, 0.2))
    kill(run)
    return f"step {launching.logged_step(run.workdir)}"


def during_a_save(run, rng, seconds):
    run.wait_for_step(launching.logged_step(run.workdir) + rng.randint(1, 6))
    while run.process.poll() is None:
        if runs.saves_in_flight(run.workdir):
            time.sleep(rng.uniform(0, 0.05))
            # Stopped first, so that the save cannot end between the look and the kill.
            run.process.send_signal(signal.SIGSTOP)
            if runs.saves_in_flight(run.workdir):
                break
            run.process.send_signal(signal.SIGCONT)
    kill(run)
    assert runs.saves_in_flight(run.workdir)
    return f"step {launching.logged_step(run.workdir)} (during a save)"


@pytest.mark.parametrize(
    ("module", "workers"),
    [(smoke, [0]), (smoke, [2]), (resnet, [2]), (smoke, [0, 2, 1, 2])]
    + [(half, [0]), (growing, [0, 2])]
    + [(unfreezing, [0]), (plateau, [0]), (averaging, [0])],
    ids=["vit workers=0", "vit workers=2", "resnet workers=2", "vit workers=0-2-1-2"]
    + ["float16 workers=0", "repeats and growing images workers=0-2"]
    + ["unfreezing workers=0", "plateau workers=0", "averaging workers=0"],
)
def test_three_kills_leave_no_trace(tmp_path, request, module, workers):
    name = request.node.callspec.id
    rng = runs.new_rng(name)
    started = time.monotonic()
    runs.finish(module, tmp_path / "whole", f"--config.data.num_workers={workers[0]}")
    seconds = time.monotonic() - started

    kills = [at_a_step, during_a_save]
    rng.shuffle(kills)
    killed = []
    for number, kill_it in enumerate([at_any_time, *kills, None]):
        option = f"--config.data.num_workers={workers[number % len(workers)]}"
        if kill_it is None:
            runs.finish(module, tmp_path / "killed", option)
        else:
            killed.append(kill_it(runs.Run(module, tmp_path / "killed", option), rng, seconds))
    case = f"{name}: killed at {', '.join(killed)}"
    runs.assert_same_end(case, module, tmp_path / "killed", tmp_path / "whole")
