"""A terminal in the place of stderr, for tests of what somebody sees who is watching."""

import re
import sys


class Terminal:
    """What stands for stderr where somebody is watching."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True

    def fileno(self):
        raise OSError("no terminal of the system's")

    def lines(self):
        """Returns what was to be seen, one after the other."""
        return [line for line in re.split(r"\r\033\[K|\n", self.text) if line]


def watched(monkeypatch):
    """Puts a terminal in the place of stderr; pytest would undo it after a fixture."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal
