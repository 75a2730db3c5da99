"""What Ctrl-C says and does; tests/torture/test_signals.py sends it to whole runs."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from jaxvision.files import _CHECKPOINT_PARTS, newest_checkpoint, what_is_saved
from jaxvision.train.stop import Stopped, StopSignal

FIRST = "SIGINT: saving after this step; Ctrl-C again quits without saving."


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_signals_are_answered_at_once(caplog):
    def said():
        return [record.message for record in caplog.records]

    handler = signal.getsignal(signal.SIGINT)
    with caplog.at_level(logging.INFO), StopSignal() as stop:
        assert stop.requested(1) is None
        signal.raise_signal(signal.SIGTERM)
        wait_for(lambda: said() == ["SIGTERM: saving after this step."])
        assert stop.requested(2) == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
        wait_for(lambda: said()[1:] == [FIRST])
        assert stop.requested(2) == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        wait_for(lambda: said()[2:] == ["Quitting without saving."])
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.set_wakeup_fd(-1) == -1


# As XLA while it compiles: a call that Python does not come back from, and that no signal ends.
STUCK = """
import hashlib, logging, sys
from jaxvision.files import _CHECKPOINT_PARTS, newest_checkpoint
from jaxvision.train import stop
stop.GRACE_SECONDS = 0.1
logging.basicConfig(level=logging.INFO, format="%(message)s")
with stop.StopSignal(lambda: newest_checkpoint(sys.argv[1])):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.parametrize("step", [None, 20])
def test_a_second_one_ends_what_does_not_listen(tmp_path, step):
    (tmp_path / "checkpoints").mkdir()
    if step:
        for name in ("5", str(step), "30.orbax-checkpoint-tmp", "40.damaged"):
            for part in _CHECKPOINT_PARTS:
                (tmp_path / "checkpoints" / name / part).mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(tmp_path)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "ready\n"
        lines = []
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            lines.append(process.stderr.readline().strip())
        rest = process.stderr.read().strip()
        assert process.wait(20) == 130
    assert lines == [FIRST, "Quitting without saving."]
    assert newest_checkpoint(tmp_path) == step
    assert rest == f"Interrupted; {what_is_saved(step)}"


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        (7, "step 7, which is saved; the same command resumes from the checkpoint of step 7."),
        (5, "step 7, which could not be saved; the same command resumes from the checkpoint of"),
        (None, "step 7, which could not be saved; there is no checkpoint, and the same command"),
    ],
)
def test_the_end_tells_what_was_saved(saved, expected):
    stopped = Stopped(signal.SIGINT, 7, saved)
    assert stopped.exit_code == 130 and f"Stopped by SIGINT after {expected}" in str(stopped)
