"""Watches the steps' metrics without making the devices wait for the host."""

import collections
import contextlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxvision.errors import RunError
from jaxvision.options.length import Cadence
from jaxvision.terminal import waiting
from jaxvision.train.writer import EPOCH_METRICS, MetricWriter

STEPS_IN_FLIGHT = 2  # the host runs at most this far ahead of the devices


def compiling(what: str) -> contextlib.AbstractContextManager[None]:
    """Says that a program is being compiled, with a clock.

    Args:
      what: Description of the program, such as "the training step".
    """
    config: Any = jax.config  # its options are not declared
    kept = ", then cached" if config.jax_compilation_cache_dir else ""
    return waiting(f"Compiling {what} (once{kept}), about 30 s")


class TrainingDiverged(RunError):
    """The loss or the gradient was not finite for too many steps in a row."""


class NonFiniteGuard:
    """Stops a run whose steps are not finite, and keeps the host close behind the devices.

    Args:
      limit: Number of steps in a row that may not be finite.
      show: Function that is given each step that the devices have finished, with its metrics.
    """

    def __init__(self, limit: int, show: Callable[[int, dict], None] = lambda step, metrics: None):
        self.limit, self.show = limit, show
        self.in_flight: collections.deque = collections.deque()
        self.records: collections.deque = collections.deque(maxlen=limit + STEPS_IN_FLIGHT + 1)

    def watch(self, step: int, metrics: dict, records: np.ndarray) -> None:
        """Notes a step that was dispatched, and checks the one before those in flight."""
        self.in_flight.append((step, metrics))
        self.records.append((step, records))
        if len(self.in_flight) > STEPS_IN_FLIGHT:
            self._check(*self.in_flight.popleft())

    def finish(self) -> None:
        """Checks the steps that are still in flight."""
        while self.in_flight:
            self._check(*self.in_flight.popleft())

    def _check(self, step: int, metrics: dict) -> None:
        in_a_row = int(jax.device_get(metrics["skipped_in_a_row"]))
        self.show(step, metrics)
        if in_a_row < self.limit:
            return
        first = step - in_a_row + 1
        records = dict(self.records).get(first)
        raise TrainingDiverged(
            f"The loss or gradient was not finite in {in_a_row} steps in a row, from step {first} "
            f"on (records {'unknown' if records is None else records[:8].tolist()} ...). The "
            "newest checkpoint is unharmed; lower --config.optimizer.learning_rate, set "
            "--config.optimizer.clip_norm, or look at these records."
        )


class TrainLog:
    """Gathers the steps' metrics on the device and writes their means.

    A scheduled window is fetched one step later, when the devices have the next step to work on.
    """

    def __init__(self, writer: MetricWriter, batch_size: int, epochs: Cadence):
        self.writer, self.batch_size, self.epochs = writer, batch_size, epochs
        self.epoch: list[dict[str, Any]] = []  # what a line of the epoch tells of each step
        self.ended: list[tuple[int, dict[str, float]]] = []  # step and means of past epochs
        self.window: list[dict] = []
        self.scheduled: tuple[int, list[dict]] | None = None
        self.step = 0
        self.compiling = True  # in the first window, which tells nothing about the speed
        self.restart()

    def restart(self) -> None:
        """Starts the clock anew, after time that was not spent on training."""
        self.since = time.monotonic()

    def add(self, step: int, metrics: dict) -> None:
        """Adds the metrics of one step to the window."""
        self.flush()
        self.end_epochs()
        self.step = step
        self.window.append(metrics)

    def schedule(self) -> None:
        """Ends the window here; it is written one step later."""
        if self.window:
            self.scheduled, self.window = (self.step, self.window), []

    def end_before_compiling(self) -> None:
        """Writes what there is; the next window holds a compilation and tells no speed."""
        self.schedule()
        self.flush()
        self.compiling = True
        self.writer.leave_out_time()

    def flush(self) -> None:
        """Writes the window that was scheduled, if there is one."""
        if self.scheduled is None:
            return
        step, window = self.scheduled
        self.scheduled = None
        window = jax.device_get(window)
        values = _means(window)
        seconds = time.monotonic() - self.since
        if not self.compiling:
            values["images_per_second"] = len(window) * self.batch_size / seconds
        self.compiling = False
        self.restart()
        self.writer.write(step, {f"train/{name}": value for name, value in values.items()})
        for number, metrics in enumerate(window, step + 1 - len(window)):
            self.epoch.append({name: metrics[name] for name in EPOCH_METRICS if name in metrics})
            if self.epochs.count(number):
                self._end_epoch(number)

    def end_epochs(self, *, results: dict[str, float] | None = None, last: bool = False) -> None:
        """Writes a line for each epoch that has ended and is not written yet.

        Args:
          results: Metrics of an evaluation after the newest step, for the epoch that ends there.
          last: Whether the run ends here, within an epoch or not.
        """
        if last and self.epoch:
            self._end_epoch(self.step)
        for step, means in self.ended:
            self.writer.write_epoch(step, means, (results or {}) if step == self.step else {})
        self.ended = []

    def _end_epoch(self, step: int) -> None:
        self.ended.append((step, _means(self.epoch)))
        self.epoch = []


def _means(window: list[dict]) -> dict[str, float]:
    """Returns the mean of each metric over its finite steps, and the last value of a state."""
    values = {}
    for name in window[0]:
        steps = np.asarray([metrics[name] for metrics in window])
        if name in ("learning_rate", "skipped_steps", "loss_scale"):
            values[name] = float(steps[-1])
        elif name != "skipped_in_a_row":
            finite = steps[np.isfinite(steps)]
            values[name] = float(finite.mean()) if finite.size else float("nan")
    return values
