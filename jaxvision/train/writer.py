"""Metrics of a run: metrics.jsonl, trackers, and progress for the person who waits."""

import contextlib
import json
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax

from jaxvision.files import METRICS_FILE, read_metrics, write_text
from jaxvision.options.length import Cadence
from jaxvision.options.options import Options
from jaxvision.terminal import TimeLeft, bar, clock, showing
from jaxvision.train.trackers import Trackers

logger = logging.getLogger(__name__)

_FETCH_SECONDS = 0.2  # between two looks at the metrics of a step, for the bar
EPOCH_METRICS = ("loss", "accuracy", "token_accuracy")  # of every line, where a step has them
_SHOWN = {name: name.replace("_", " ") for name in EPOCH_METRICS} | {"learning_rate": "rate"}


class MetricWriter:
    """Writes the scalars of a run to every place where somebody looks for them.

    `metrics.jsonl` is the record: one JSON object a line, flushed at once, so that a killed run
    loses nothing. Progress goes to a bar when stderr is a terminal and to log lines otherwise.
    A full disk does not stop a run: lines wait in memory until there is space.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        total_steps: int,
        resume_step: int = 0,
        batch_size: int = 0,
        steps_per_epoch: float = 0.0,
        best_metric: str = "",
        options: Options | None = None,
        enabled: bool = True,
    ):
        """Opens the files of a run, and forgets what was written after `resume_step`.

        Steps after the checkpoint that a run resumes from are computed again, and would otherwise
        be there twice.

        Args:
          workdir: Folder of the run; created if it is missing.
          total_steps: Number of updates of the whole run.
          resume_step: Number of updates already done; 0 for a new run.
          batch_size: Number of images in an update, for the lines of the epochs.
          steps_per_epoch: Number of updates in an epoch, for the bar and these lines; 0: unknown.
          best_metric: Name of the evaluations' metric that these lines tell, too.
          options: Options of the run, which name the trackers; None: no tracker.
          enabled: Whether anything is written: False makes every call do nothing; only process 0 of
            a run writes.

        Raises:
          InputError: if metrics.jsonl holds a line that is no JSON object, or a tracker cannot be
            opened.
        """
        self._enabled = enabled
        if not enabled:
            return
        self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
        self._batch_size, self._best_metric = batch_size, best_metric
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
        self._trackers = Trackers(workdir, options, resume_step=resume_step) if options else None
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
        if self._trackers is not None:
            self._trackers.write(int(step), values)
        if any(name.startswith("train/") for name in values):
            self._log_progress(step, values)
        else:
            texts = [f"{name} {value:.4g}" for name, value in values.items()]
            logger.info("step %d/%d: %s", step, self._total_steps, ", ".join(texts))
            if not self._evaluated:  # it compiled
                self.leave_out_time()
            self._evaluated = True

    def write_epoch(self, step: int, metrics: dict[str, float], results: dict[str, float]) -> None:
        """Logs what an epoch, or the end of one, gave.

        Args:
          step: Number of updates done.
          metrics: Means over the epoch's steps, without prefix.
          results: Metrics of an evaluation after it; empty: there was none.
        """
        if not self._enabled:
            return
        texts = _facts(metrics)
        if self._best_metric in results:
            name = self._best_metric.replace("/", " ")
            texts.append(f"{name} {float(results[self._best_metric]):.4g}")
        if self._speed:
            texts.append(f"{self._speed:,.0f} images/s")
        texts += [self._left.text(step), f"{step * self._batch_size:,} images seen"]
        logger.info("%s: %s", self._epoch(step), ", ".join(filter(None, texts)))

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

    def close(self, *, failed: bool = False) -> None:
        """Closes the files and the bar; nothing may be written afterwards.

        Args:
          failed: Whether the run broke off.
        """
        if not self._enabled:
            return
        self._enabled = False
        self._file.close()
        if self._unwritten:
            logger.error(
                "The last %d lines of %s are lost.", self._unwritten.count(b"\n"), METRICS_FILE
            )
        if self._trackers is not None:
            self._trackers.close(failed=failed)
        self._shown.close()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.close(failed=kind is not None)

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
        self._speed = values.get("train/images_per_second", 0.0)
        if sys.stderr.isatty():  # the bar says it
            return
        texts = _facts({name.removeprefix("train/"): value for name, value in values.items()})
        if self._speed:
            texts.append(f"images/s {self._speed:,.1f}")
        texts.append(self._left.text(step))
        line = ", ".join(filter(None, texts))
        logger.info("step %d/%d: %s", step, self._total_steps, line)

    def _epoch(self, step: int, form: str = ".4g") -> str:
        """Returns how many epochs are done, and of how many, as in `epoch 2/10`."""
        done = Cadence(self._steps_per_epoch).count(step) or step / self._steps_per_epoch
        return f"epoch {done:{form}}/{self._total_steps / self._steps_per_epoch:.3g}"

    def _bar(self) -> str:
        """Returns the line of the terminal."""
        texts = [bar(self._step, self._total_steps), self._left.text(self._step)]
        if self._steps_per_epoch:
            texts.append(self._epoch(self._step, ".2f"))
        texts.append(self._facts)
        if self._speed:
            texts.append(f"{self._speed:,.0f} images/s")
        texts.append(clock(time.monotonic() - self._start))
        return "  ".join(filter(None, texts))


def _facts(metrics: dict[str, float]) -> list[str]:
    """Returns loss and accuracy in words."""
    return [f"{_SHOWN[name]} {metrics[name]:.4g}" for name in EPOCH_METRICS if name in metrics]


def _drop_lines_after(workdir: Path, step: int) -> None:
    path = workdir / METRICS_FILE
    if not path.is_file():
        return
    kept = [record for record in read_metrics(workdir) if record["step"] <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
