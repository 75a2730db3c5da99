"""Trackers of experiments: where a run's curves, options and pictures go beside metrics.jsonl."""

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxvision.errors import InputError, reason, shorten
from jaxvision.files import read_json, write_json
from jaxvision.options.options import Options, as_json
from jaxvision.train.workdir import flat

IDS_FILE = "trackers.json"  # of a run: what the trackers call it
PROJECT = "jaxvision"  # what W&B calls a project and MLflow an experiment, unless they are told
_PARAMS_AT_ONCE = 100  # MLflow takes no more
_FLUSH_SECONDS = 0.1  # of W&B, whose file would be 15 s behind when a run is killed

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """One of the places where somebody looks at runs."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the scalars of a step; they may be not finite."""

    def picture(self, step: int, path: Path) -> None:
        """Writes a picture, a PNG, under its name."""

    def close(self, *, failed: bool) -> None:
        """Ends the run there, or says that it broke off."""


class Trackers:
    """The trackers of a run: one that fails on the way is given up, and the run goes on.

    A run that is resumed goes on there, too, as the same run.
    """

    def __init__(self, workdir: str | os.PathLike, options: Options, *, resume_step: int = 0):
        """Opens the trackers that the options name.

        Args:
          workdir: Folder of the run; must exist.
          options: Options of the run.
          resume_step: Number of updates already done; 0 for a new run.

        Raises:
          InputError: if a tracker cannot be opened.
        """
        self._open: dict[str, Tracker] = {}
        for name in options.log.to:
            title, make = _MAKERS[name]
            try:
                self._open[title] = make(Path(workdir).absolute(), options, resume_step)
            except InputError:
                raise
            except OSError as error:  # a full disk does not stop a run
                self._give_up(title, error)
            except Exception as error:
                raise InputError(
                    f"--config.log.to={name}: {title} cannot be opened ({shorten(reason(error))}). "
                    f"{_HINTS.get(name, '')}"
                ) from error

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the scalars of one step.

        Args:
          step: Number of updates done.
          values: Scalars by name; they may be not finite.
        """
        self._each(lambda tracker: tracker.write(step, values))

    def pictures(self, step: int, paths: Sequence[Path]) -> None:
        """Writes pictures.

        Args:
          step: Number of updates done.
          paths: Paths of PNGs; their names without suffix are those of the pictures.
        """
        for path in paths:
            self._each(lambda tracker, path=path: tracker.picture(step, path))

    def close(self, *, failed: bool = False) -> None:
        """Closes the trackers.

        Args:
          failed: Whether the run broke off.
        """
        self._each(lambda tracker: tracker.close(failed=failed))
        self._open.clear()

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.close(failed=kind is not None)

    def _each(self, do: Callable[[Tracker], None]) -> None:
        for title, tracker in [*self._open.items()]:
            try:
                do(tracker)
            except Exception as error:  # of any library, of its server, of the network
                self._give_up(title, error)
                with contextlib.suppress(Exception):  # it fails again, but then it is closed
                    tracker.close(failed=True)

    def _give_up(self, title: str, error: Exception) -> None:
        logger.error("%s's record of the run ends here: %s.", title, shorten(reason(error)))
        self._open.pop(title, None)


class _TensorBoard:
    """Events on the disk at once, as a run may be killed at any moment.

    Not tensorboardX's SummaryWriter: its thread dies where the disk is full, and then its queue
    fills up and the run waits for ever.
    """

    def __init__(self, workdir: Path, options: Options, resume_step: int):
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._event: Any = event_pb2.Event  # pyright: ignore
        self._summary = summary
        # Its own name has seconds: a second file in one of them would replace the first.
        self._file = EventsWriter(str(workdir / "events"), f".{time.time_ns()}")
        # TensorBoard hides the events from this step on that older files of the folder hold.
        start = event_pb2.SessionLog.START  # pyright: ignore
        self._add(self._event(step=resume_step + 1, session_log={"status": start}))

    def write(self, step: int, values: dict[str, float]) -> None:
        scalar = self._summary.scalar
        self._add(*(self._event(step=step, summary=scalar(k, v)) for k, v in values.items()))

    def picture(self, step: int, path: Path) -> None:
        import numpy as np
        from PIL import Image

        pixels = np.asarray(Image.open(path).convert("RGB"))
        image = self._summary.image(path.stem, pixels, dataformats="HWC")
        self._add(self._event(step=step, summary=image))

    def close(self, *, failed: bool) -> None:
        self._file.close()

    def _add(self, *events: Any) -> None:
        for event in events:
            event.wall_time = time.time()
            self._file.write_event(event)
        self._file.flush()


class _WandB:
    """W&B, online or not as its own settings say (`WANDB_MODE`, `WANDB_PROJECT`, `wandb login`)."""

    def __init__(self, workdir: Path, options: Options, resume_step: int):
        logging.getLogger("wandb").setLevel(logging.WARNING)
        import wandb

        ids = _Ids(workdir, "wandb", resume_step)
        self._image = wandb.Image
        self._run = wandb.init(
            dir=workdir,
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", workdir.name),
            id=ids.known or uuid.uuid4().hex[:12],
            resume="allow",
            config=as_json(options),
            allow_val_change=True,  # where and how long a run goes on may change
            settings=wandb.Settings(
                console="off",
                silent=True,
                x_transaction_log_flush_interval=_FLUSH_SECONDS,
            ),
        )
        ids.keep(self._run.id)
        # Its own steps must rise, and hold back the last one until there is another.
        self._run.define_metric("*", step_metric="step")
        if not self._run.offline:
            logger.info("W&B shows the run at %s.", self._run.url)

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log({"step": step, **values})

    def picture(self, step: int, path: Path) -> None:
        self._run.log({"step": step, path.stem: self._image(str(path))})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _MLflow:
    """MLflow, at `MLFLOW_TRACKING_URI`, or else in the folder `mlflow` of the run."""

    def __init__(self, workdir: Path, options: Options, resume_step: int):
        for library in ("mlflow", "alembic"):  # of tables of the database
            logging.getLogger(library).setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if uri is None:
            folder = workdir / "mlflow"
            folder.mkdir(exist_ok=True)
            uri, artifacts = f"sqlite:///{folder}/mlflow.db", (folder / "artifacts").as_uri()
        ids = _Ids(workdir, "mlflow", resume_step)
        self._client = client = MlflowClient(uri)
        self._last: dict[str, int] = {}  # steps, by metric
        self._resumed = bool(ids.known)
        if ids.known:
            self._id = ids.known
            client.update_run(self._id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name, artifacts)
        self._id = client.create_run(experiment, run_name=workdir.name).info.run_id
        ids.keep(self._id)
        params = [Param(k, shorten(v, 400)) for k, v in flat(as_json(options)).items()]
        for i in range(0, len(params), _PARAMS_AT_ONCE):
            client.log_batch(self._id, params=params[i : i + _PARAMS_AT_ONCE])

    def write(self, step: int, values: dict[str, float]) -> None:
        now = int(1000 * time.time())
        new = [self._metric(k, v, now, step) for k, v in values.items() if step > self._seen(k)]
        self._client.log_batch(self._id, metrics=new)

    def picture(self, step: int, path: Path) -> None:
        self._client.log_artifact(self._id, str(path), "pictures")

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")

    def _seen(self, name: str) -> int:
        """Returns the last step of a metric before a kill: some are computed again."""
        if not self._resumed:
            return -1
        if name not in self._last:
            history = self._client.get_metric_history(self._id, name)
            self._last[name] = max((metric.step for metric in history), default=-1)
        return self._last[name]


class _Ids:
    """What the trackers call a run: `known` of one that is resumed, otherwise empty."""

    def __init__(self, workdir: Path, tracker: str, resume_step: int):
        self._path, self._tracker = workdir / IDS_FILE, tracker
        try:
            self._ids = read_json(self._path) if self._path.exists() else {}
        except ValueError as error:
            raise InputError(f"{self._path} is damaged ({error}): remove it.") from error
        self.known = str(self._ids.get(tracker, "")) if resume_step else ""

    def keep(self, name: str) -> None:
        write_json(self._path, self._ids | {self._tracker: name})


_MAKERS: dict[str, tuple[str, Callable[[Path, Options, int], Tracker]]] = {
    "tensorboard": ("TensorBoard", _TensorBoard),
    "wandb": ("W&B", _WandB),
    "mlflow": ("MLflow", _MLflow),
}
_HINTS = {
    "wandb": "Type `wandb login`, or set WANDB_MODE=offline in the environment.",
    "mlflow": "MLFLOW_TRACKING_URI in the environment says where it is; without it, it is in the "
    "folder of the run.",
}
