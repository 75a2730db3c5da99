"""Ends a run at a step boundary when the system asks for it."""

import signal
import threading
from types import FrameType


class Stopped(Exception):
    """The run was stopped by a signal, after its state was saved.

    Attributes:
      exit_code: 128 + the signal's number, as a shell reports it.
    """

    def __init__(self, signum: int, step: int):
        self.exit_code = 128 + signum
        super().__init__(
            f"Stopped by {signal.Signals(signum).name} after step {step}, which is saved; "
            "the same command goes on from there."
        )


class StopSignal:
    """Notes SIGTERM and SIGINT while it is entered; a second SIGINT interrupts at once.

    Attributes:
      signum: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict = {}

    def __enter__(self) -> "StopSignal":
        # Python delivers signals to the main thread only; elsewhere the caller has to stop the run.
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    def __exit__(self, *args: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
