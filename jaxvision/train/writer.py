"""Metrics of a run: metrics.jsonl, TensorBoard events, and progress for the person who waits."""

import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from jaxvision.files import METRICS_FILE, read_metrics, write_text
from jaxvision.terminal import TimeLeft, bar, clock, showing

logger = logging.getLogger(__name__)

_FETCH_SECONDS = 0.2  # between two looks at the metrics of a step, for the bar
_SHOWN = {
    "loss": "loss",
    "accuracy": "accuracy",
    "token_accuracy": "token accuracy",
    "learning_rate": "rate",
}


class MetricWriter:
    """Writes the scalars of a run to every place where somebody looks for them.

    `metrics.jsonl` is the record: one JSON object a line, flushed at once, so that a killed run
    loses nothing. Progress goes to a bar when stderr is a terminal and to log lines otherwise.
    A full disk does not stop a run: lines wait in memory until there is space, and events end.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        total_steps: int,
        resume_step: int = 0,
        steps_per_epoch: float = 0.0,
        tensorboard: bool = True,
        enabled: bool = True,
    ):
        """Opens the files of a run, and forgets what was written after `resume_step`.

        Steps after the checkpoint that a run resumes from are computed again, and would otherwise
        be there twice.

        Args:
          workdir: Folder of the run; created if it is missing.
          total_steps: Number of updates of the whole run.
          resume_step: Number of updates already done; 0 for a new run.
          steps_per_epoch: Number of updates in an epoch, for the bar; 0: unknown.
          tensorboard: Whether event files are written too.
          enabled: Whether anything is written: False makes every call do nothing; only process 0 of
            a run writes.

        Raises:
          InputError: if metrics.jsonl holds a line that is no JSON object.
        """
        self._enabled = enabled
        if not enabled:
            return
        self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
        self._left = TimeLeft(total_steps)
        self._evaluated = False
        # Of the bar: the last finished step, what it showed and when, and the images a second.
        self._step, self._facts, self._fetched, self._speed = resume_step, "", 0.0, 0.0
        self._start = time.monotonic()
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        _drop_lines_after(workdir, resume_step)
        self._file = (workdir / METRICS_FILE).open("ab", buffering=0)
        self._unwritten = b""
        self._events = _Events(workdir, resume_step) if tensorboard else None
        self._shown = contextlib.ExitStack()
        self._shown.enter_context(showing(self._bar))

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Writes the scalars of one step; a name has a prefix, such as `train/loss`.

        Non-finite values become null in metrics.jsonl, because JSON has no NaN.

        Args:
          step: Number of updates done.
          metrics: Scalars of Python, NumPy or JAX by name.
        """
        if not self._enabled:
            return
        values = {name: float(value) for name, value in metrics.items()}
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        self._append(json.dumps({"step": int(step), **finite}, allow_nan=False) + "\n")
        if self._events is not None:
            self._events.write(int(step), values)
        if any(name.startswith("train/") for name in values):
            self._log_progress(step, values)
        else:
            texts = [f"{name} {value:.4g}" for name, value in values.items()]
            logger.info("step %d/%d: %s", step, self._total_steps, ", ".join(texts))
            if not self._evaluated:  # it compiled
                self.leave_out_time()
            self._evaluated = True

    def show(self, step: int, metrics: dict[str, Any]) -> None:
        """Shows a step that the devices have finished, where somebody is watching.

        Args:
          step: Number of updates done.
          metrics: Metrics of the step without prefix, on the devices.
        """
        if not self._enabled or not sys.stderr.isatty():
            return
        self._left.mark(step)
        self._step, now = max(step, self._step), time.monotonic()
        if now > self._fetched + _FETCH_SECONDS or step == self._total_steps:
            self._fetched = now
            names = [name for name in _SHOWN if name in metrics]
            values = jax.device_get([metrics[name] for name in names])
            facts = (f"{_SHOWN[n]} {float(x):.3g}" for n, x in zip(names, values, strict=True))
            self._facts = "  ".join(facts)

    def leave_out_time(self) -> None:
        """Leaves what has been going on since the last step out of the time left: it compiled."""
        if self._enabled:
            self._left.leave_out()

    def close(self) -> None:
        """Closes the files and the bar; nothing may be written afterwards."""
        if not self._enabled:
            return
        self._enabled = False
        self._file.close()
        if self._unwritten:
            logger.error(
                "The last %d lines of %s are lost.", self._unwritten.count(b"\n"), METRICS_FILE
            )
        if self._events is not None:
            self._events.close()
        self._shown.close()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, line: str) -> None:
        self._unwritten += line.encode()
        try:
            while self._unwritten:  # a disk that is nearly full takes a part of a line
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as error:
            logger.error(
                "%s cannot be written: %s. Its lines are kept and tried again.",
                METRICS_FILE,
                error.strerror,
            )

    def _log_progress(self, step: int, values: dict[str, float]) -> None:
        self._left.mark(step)
        if sys.stderr.isatty():  # the bar says it
            self._speed = values.get("train/images_per_second", 0.0)
            return
        texts = []
        if "train/loss" in values:
            texts.append(f"loss {values['train/loss']:.4g}")
        if "train/images_per_second" in values:
            texts.append(f"images/s {values['train/images_per_second']:,.1f}")
        texts.append(self._left.text(step))
        line = ", ".join(filter(None, texts))
        logger.info("step %d/%d: %s", step, self._total_steps, line)

    def _bar(self) -> str:
        """Returns the line of the terminal."""
        texts = [bar(self._step, self._total_steps), self._left.text(self._step)]
        if self._steps_per_epoch:
            epochs = self._total_steps / self._steps_per_epoch
            texts.append(f"epoch {self._step / self._steps_per_epoch:.2f}/{epochs:.3g}")
        texts.append(self._facts)
        if self._speed:
            texts.append(f"{self._speed:,.0f} images/s")
        texts.append(clock(time.monotonic() - self._start))
        return "  ".join(filter(None, texts))


def _drop_lines_after(workdir: Path, step: int) -> None:
    path = workdir / METRICS_FILE
    if not path.is_file():
        return
    kept = [record for record in read_metrics(workdir) if record["step"] <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


class _Events:
    """The scalars for TensorBoard, on the disk at once, as a run may be killed at any moment.

    Not tensorboardX's SummaryWriter: its thread dies where the disk is full, and then its queue
    fills up and the run waits for ever.
    """

    def __init__(self, workdir: Path, resume_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        self._event: Any = event_pb2.Event  # pyright: ignore
        self._scalar = scalar
        self._file: Any = None
        try:
            # Its own name has seconds: a second file in one of them would replace the first.
            self._file = EventsWriter(str(workdir / "events"), f".{time.time_ns()}")
        except OSError as error:
            self._give_up(error)
        # TensorBoard hides the events from this step on that older files of the folder hold.
        start = event_pb2.SessionLog.START  # pyright: ignore
        self._add([self._event(step=resume_step + 1, session_log={"status": start})])

    def write(self, step: int, values: dict[str, float]) -> None:
        self._add(
            self._event(step=step, summary=self._scalar(name, value))
            for name, value in values.items()
        )

    def close(self) -> None:
        try:
            if self._file is not None:
                self._file.close()
        except OSError as error:
            self._give_up(error)

    def _add(self, events: Iterable[Any]) -> None:
        if self._file is None:
            return
        try:
            for event in events:
                event.wall_time = time.time()
                self._file.write_event(event)
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        logger.error("TensorBoard's events end here: %s.", error.strerror)
        file, self._file = self._file, None
        with contextlib.suppress(OSError, AttributeError):  # it fails again, but then it is closed
            file.close()
