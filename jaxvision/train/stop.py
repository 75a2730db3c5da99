"""Ends a run at a step boundary when the system asks for it."""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
    """The run was stopped by a signal, after its state was saved.

    Attributes:
      exit_code: Exit code, 128 + the signal's number, as a shell reports it.
    """

    def __init__(self, signum: int, step: int):
        self.exit_code = 128 + signum
        super().__init__(
            f"Stopped by {signal.Signals(signum).name} after step {step}, which is saved; "
            "the same command resumes from there."
        )


class StopSignal:
    """Notes SIGTERM and SIGINT while it is entered; a second SIGINT interrupts at once.

    With several processes, a signal to any one stops all of them after the same step.

    Attributes:
      signum: Number of the signal that came to this process, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict = {}

    def __enter__(self) -> "StopSignal":
        # Python delivers signals to the main thread only; elsewhere the caller has to stop the run.
        if threading.current_thread() is threading.main_thread():
            # jax's own handler of SIGTERM tells the other processes, so it must stay.
            several = jax.process_count() > 1
            for signum in (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
        if jax.process_count() > 1:
            signal.raise_signal(signal.SIGTERM)

    def requested(self, step: int) -> int | None:
        """Returns the signal that the run must stop for after this step, or None."""
        if jax.process_count() == 1:
            return self.signum
        return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else None

    def __exit__(self, *args: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
