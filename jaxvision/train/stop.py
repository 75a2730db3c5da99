"""Ends a run at a step boundary when the system asks for it."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

import jax
from jax.experimental import multihost_utils

from jaxvision.command_line import end_interrupted
from jaxvision.files import what_is_saved

logger = logging.getLogger(__name__)

GRACE_SECONDS = 3.0  # for the run to be left after a second SIGINT
# What jax lets the garbage collector call: an exception there is printed, and lost.
_CALLBACK = "_xla_gc_callback"


class Stopped(Exception):
    """The run was stopped by a signal, after its state was saved.

    Args:
      signum: Number of the signal.
      step: Number of updates done.
      saved: Step of the newest checkpoint; None: there is none.

    Attributes:
      exit_code: Exit code, 128 + the signal's number, as a shell reports it.
    """

    def __init__(self, signum: int, step: int, saved: int | None):
        self.exit_code = 128 + signum
        is_saved = "is saved" if saved == step else "could not be saved"
        super().__init__(
            f"Stopped by {signal.Signals(signum).name} after step {step}, which {is_saved}; "
            f"{what_is_saved(saved)}"
        )


class StopSignal:
    """Notes SIGTERM and SIGINT while it is entered; a second SIGINT interrupts at once.

    What follows is said at once, also while the main thread compiles or waits for a device, where
    Python runs no handler: a thread reads the signals from a pipe. If the main thread does not come
    back after a second SIGINT, this thread ends the process.

    With several processes, a signal to any one stops all of them after the same step.

    Args:
      saved: Function that returns the step of the newest checkpoint; None: there is none.

    Attributes:
      signum: Number of the signal that came to this process, or None.
    """

    def __init__(self, saved: Callable[[], int | None] = lambda: None) -> None:
        self.signum: int | None = None
        self._saved = saved
        self._previous: dict = {}
        self._left = threading.Event()

    def __enter__(self) -> "StopSignal":
        # Python delivers signals to the main thread only; elsewhere the caller has to stop the run.
        if threading.current_thread() is threading.main_thread():
            # jax's own handler of SIGTERM tells the other processes, so it must stay.
            several = jax.process_count() > 1
            for signum in (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT):
                self._previous[signum] = signal.signal(signum, self._note)
            reader, self._pipe = os.pipe()
            os.set_blocking(self._pipe, False)
            self._previous_pipe = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
            threading.Thread(target=self._answer, args=(reader,), daemon=True).start()
        return self

    def _answer(self, reader: int) -> None:
        """Says what each signal does, as soon as it comes."""
        before = None
        while signums := os.read(reader, 1):
            signum = signums[0]
            if signum not in self._previous:
                continue
            if signum == before == signal.SIGINT:
                logger.info("Quitting without saving.")
                if not self._left.wait(GRACE_SECONDS):
                    end_interrupted(what_is_saved(self._saved()))
                continue
            again = "; Ctrl-C again quits without saving" if signum == signal.SIGINT else ""
            logger.info("%s: saving after this step%s.", signal.Signals(signum).name, again)
            before = signum
        os.close(reader)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum == signum == signal.SIGINT:
            if frame is not None and frame.f_code.co_name == _CALLBACK:
                return  # the thread that answers ends the process
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
        self._left.set()
        if self._previous:
            signal.set_wakeup_fd(self._previous_pipe)
            os.close(self._pipe)  # which ends the thread
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
