"""What a wait is for: a line with a moving clock on a terminal, log lines elsewhere."""

import contextlib
import datetime
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from jaxvision.command_line import PROGRESS_LOCK, show_progress

logger = logging.getLogger(__name__)

T = TypeVar("T")

REDRAW_SECONDS = 0.2
LOGGED_AFTER_SECONDS = 5.0  # a wait in a log file; shorter ones are not worth a line
BAR_CHARACTERS = 10

_shown: list[Callable[[], str]] = []  # the last one is drawn: an evaluation inside of a run
_threads: list[threading.Thread] = []  # the one that draws, or none


@contextlib.contextmanager
def showing(line: Callable[[], str]) -> Iterator[None]:
    """Keeps a line on the terminal, drawn anew several times a second; nothing without a terminal.

    It is drawn by a thread of its own, so that its clock moves while XLA compiles.

    Args:
      line: Function that returns the line; must not wait for anything.
    """
    if not sys.stderr.isatty():
        yield
        return
    with PROGRESS_LOCK:
        _shown.append(line)
        show_progress(line())
        if not _threads:
            _threads.append(threading.Thread(target=_draw, daemon=True))
            _threads[0].start()
    try:
        yield
    finally:
        with PROGRESS_LOCK:
            if line in _shown:
                _shown.remove(line)
            show_progress(_shown[-1]() if _shown else "")


@contextlib.contextmanager
def nothing_shown_after() -> Iterator[None]:
    """Takes back at its end what is still shown: an error keeps the loops alive that it left."""
    try:
        yield
    finally:
        with PROGRESS_LOCK:
            _shown.clear()
            show_progress()
            threads = [*_threads]
        for thread in threads:  # it must not meet the end of the interpreter
            thread.join()


def _draw() -> None:
    while True:
        time.sleep(REDRAW_SECONDS)
        with PROGRESS_LOCK:
            if not _shown:
                _threads.clear()
                return
            show_progress(_shown[-1]())


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says what a wait is for, with a clock; without a terminal one line, if it takes long.

    Args:
      what: Description of the wait, such as "Compiling the training step".
    """
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(showing(lambda: f"{what} ... {clock(time.monotonic() - start)}"))
        if not sys.stderr.isatty():
            timer = threading.Timer(LOGGED_AFTER_SECONDS, logger.info, ("%s ...", what))
            timer.daemon = True
            timer.start()
            stack.callback(timer.cancel)
        yield


def counted(items: Iterable[T], total: int, what: str, *, rate: bool = False) -> Iterator[T]:
    """Yields the items, with a bar that says how many of them are done and how long it takes.

    Args:
      items: Items to yield.
      total: Number of the items.
      what: Description of what is done with them, such as "Evaluating".
      rate: Whether the line also says how many are done a second, and the time left.
    """
    start, done = time.monotonic(), 0

    def line() -> str:
        seconds = time.monotonic() - start
        text = f"{what} {bar(done, total)} {clock(seconds)}"
        if not rate or not done:
            return text
        return f"{text} {done / seconds:,.0f}/s {clock(seconds / done * (total - done))} left"

    with showing(line):
        for item in items:
            yield item
            done += 1


def bar(done: int, total: int) -> str:
    """Returns a bar with its numbers, as in `|####      | 2/5`."""
    filled = BAR_CHARACTERS * done // max(total, 1)
    return f"|{'#' * filled:<{BAR_CHARACTERS}}| {done:,}/{total:,}"


def clock(seconds: float) -> str:
    """Returns a duration, as in `0:01:12`."""
    return str(datetime.timedelta(seconds=round(seconds)))


class TimeLeft:
    """Tells how long a run goes on, from the time that its steps took so far.

    Args:
      total_steps: Number of updates of the whole run.
    """

    def __init__(self, total_steps: int):
        self._total_steps = total_steps
        self._last: tuple[int, float] | None = None  # step and time of the last mark
        self._steps, self._seconds = 0, 0.0

    def mark(self, step: int) -> None:
        """Notes that this many updates are done; the first mark only starts the clock."""
        now = time.monotonic()
        if self._last is not None and step <= self._last[0]:
            return
        if self._last is not None:
            self._steps += step - self._last[0]
            self._seconds += now - self._last[1]
        self._last = step, now

    def leave_out(self) -> None:
        """Leaves out the time from the last mark to the next one, in which something compiles."""
        self._last = None

    def text(self, step: int) -> str:
        """Returns what is left after this many updates, as in `0:01:12 left`; "" if unknown."""
        if not self._steps:
            return ""
        return f"{clock(self._seconds / self._steps * (self._total_steps - step))} left"
