"""The line that says what is going on, on a terminal and without one."""

import itertools
import logging
import os
import pty
import re
import time

import pytest
from launching import CACHE, options, start
from watching import watched

from jaxvision import terminal as module
from jaxvision.command_line import LogHandler, fail
from jaxvision.terminal import bar, counted, nothing_shown_after, showing, waiting


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "REDRAW_SECONDS", 0.001)
    monkeypatch.setattr(module, "LOGGED_AFTER_SECONDS", 0.01)


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


def test_a_wait_has_a_clock_that_moves(caplog, monkeypatch):
    terminal = watched(monkeypatch)
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO), waiting("Compiling the training step"):
        assert terminal.lines() == ["Compiling the training step ... 0:00:00"]
        now[0] = 61.0
        deadline = time.perf_counter() + 10
        while terminal.lines()[-1] == "Compiling the training step ... 0:00:00":
            assert time.perf_counter() < deadline
    assert "Compiling the training step ... 0:01:01" in terminal.lines()
    assert terminal.text.endswith("\r\033[K")  # nothing is left
    assert not caplog.records


def test_the_innermost_wait_is_shown_and_then_the_one_around_it(monkeypatch):
    terminal = watched(monkeypatch)
    with showing(lambda: "run"), waiting("save"):
        pass
    assert [line for line, _ in itertools.groupby(terminal.lines())] == [
        "run",
        "save ... 0:00:00",
        "run",
    ]


def test_without_a_terminal_a_long_wait_is_one_line(caplog, capsys):
    with caplog.at_level(logging.INFO):
        with waiting("long"):
            wait_for(lambda: caplog.records)
        with waiting("short"):
            pass
        assert list(counted([1, 2], 2, "Evaluating")) == [1, 2]
        time.sleep(0.05)
    assert [record.message for record in caplog.records] == ["long ..."]
    assert capsys.readouterr().err == ""


def test_counted_items_have_a_bar(monkeypatch):
    terminal = watched(monkeypatch)
    seen = [terminal.lines()[-1] for item in counted("abcd", 4, "Evaluating")]
    assert seen[0].startswith("Evaluating |          | 0/4 0:00:0")
    assert bar(1, 4) == "|##        | 1/4" and bar(0, 0) == "|          | 0/0"
    assert bar(4, 4) == "|##########| 4/4" and bar(1_000, 2_000) == "|#####     | 1,000/2,000"


def test_log_lines_and_errors_stand_above_it(monkeypatch):
    terminal = watched(monkeypatch)
    handler = LogHandler(terminal)
    with showing(lambda: "x" * 200):  # cut, or it would wrap
        handler.emit(logging.makeLogRecord({"msg": "hello"}))
        fail("It went wrong.")
    assert set(terminal.lines()) == {"x" * 79, "hello", "error: It went wrong."}
    assert terminal.text.count("\r\033[Khello\n") == 1
    assert terminal.text.count("\r\033[Kerror: It went wrong.\n") == 1


def test_what_an_error_left_behind_is_taken_back(monkeypatch):
    terminal = watched(monkeypatch)
    with nothing_shown_after():
        items = counted([1, 2], 2, "Evaluating")
        next(items)
    assert terminal.text.endswith("\r\033[K") and not module._shown
    items.close()


def test_every_wait_of_a_run_is_explained(tmp_path):
    """The whole of it, as only a run has all of the waits."""
    ours, theirs = pty.openpty()
    few = options(total_steps=6, eval__every_steps=3, log__every_steps=2, checkpoint__every_steps=3)
    process = start(
        "--config=configs/smoke.py", f"--workdir={tmp_path}/run", CACHE, *few, stderr=theirs
    )
    os.close(theirs)
    text = b""
    try:
        while data := os.read(ours, 65536):
            text += data
    except OSError:  # Linux's way of saying that the other side is closed
        pass
    assert process.wait(60) == 0, text.decode()
    shown = re.split(r"\r\033\[K|\r?\n", text.decode())
    for expected in (
        r"Starting JAX \.\.\. 0:00:0",
        r"Opening the data and describing the model \.\.\.",
        r"Initialising the model \.\.\.",
        r"Compiling the training step \(once, then cached\), about 30 s \.\.\.",
        r"\|.{10}\| 0/6  epoch 0\.00/0\.24  0:00:",
        r"\|.{10}\| 3/6 .* loss \d.*rate \d",
        r"Evaluating \|.{10}\| 0/3 0:00:",
        r"Saving step 3 \.\.\.",
        r"Drawing the pictures \.\.\.",
        r"\d\d:\d\d:\d\d step 3/6: eval/accuracy",
    ):
        assert any(re.match(expected, line) for line in shown), expected
    assert not any(re.search(r"step \d/6: loss", line) for line in shown)  # the bar says it
