"""What is printed of names that files and folders bring along."""

import logging

import pytest

from jaxvision.command_line import LogFormatter, fail, say
from jaxvision.errors import printable, shorten
from jaxvision.evaluation.predict import Guess, Prediction, prediction_lines

HOSTILE = "cat\x1b]0;owned\x07\x9b2J\u202egnp\udcff.png"
SHOWN = r"cat\x1b]0;owned\x07\x9b2J\u202egnp\udcff.png"


def test_what_a_terminal_would_obey_is_escaped():
    assert printable(HOSTILE) == SHOWN
    assert printable("a\nb\tc\rd") == r"a\nb\tc\rd"
    assert printable("a\nb\tc\rd", lines=True) == "a\nb\tc\\rd"
    plain = "Katze, кошка, 猫, \U0001f408, na\u00efve \\x1b"
    assert printable(plain) == plain and shorten(plain) == plain


def test_messages_results_and_logs_are_escaped(capsys):
    fail(f"There is no {HOSTILE}.")
    say(f"{HOSTILE}\n2")
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "left out: %s", (HOSTILE,), None)
    assert LogFormatter("%(message)s").format(record) == f"left out: {SHOWN}"
    captured = capsys.readouterr()
    assert captured.err == f"error: There is no {SHOWN}.\n"
    assert captured.out == f"{SHOWN}\n2\n"


@pytest.mark.parametrize("name", [HOSTILE, "a\nb.png: 1.0000 dog"])
def test_a_prediction_is_one_line(name):
    (line,) = prediction_lines(Prediction(name, (Guess(0, name, 0.5),)), "text")
    assert line == f"{printable(name)}: 0.5000 {printable(name)}"
