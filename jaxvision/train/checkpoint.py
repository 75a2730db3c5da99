"""Saves and restores a run: the latest and the best checkpoint, or an honest error."""

import concurrent.futures
import contextlib
import logging
import os
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from jaxvision.errors import InputError, RunError
from jaxvision.files import STEP, check_step, checkpoint_steps, is_checkpoint
from jaxvision.layers.block_stack import stack_blocks, unstack_blocks
from jaxvision.terminal import waiting
from jaxvision.train.progress import higher_is_better
from jaxvision.train.sharding import state_shardings
from jaxvision.train.stop import Stopped

logger = logging.getLogger(__name__)


class Checkpointer:
    """Checkpoints `<folder>/<step>/` with the state, the data position and the metrics.

    On disk the blocks of a transformer have one name each, whether the model scans over them or
    not, so a checkpoint of one loads into the other. The `keep` latest checkpoints are kept, and
    the best one beside them.

    Attributes:
      failures: Number of saves that failed so far; a run continues after a failed save.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        *,
        keep: int = 1,
        best_metric: str = "eval/accuracy",
        read_only: bool = False,
    ):
        """Opens the folder.

        Args:
          folder: Folder of the checkpoints.
          keep: Number of latest checkpoints that are kept.
          best_metric: Name of the metric, among those given to `save`, that decides the best
            checkpoint; the largest value is the best, of a loss the smallest.
          read_only: Whether nothing on disk is touched: what looks like the remains of a broken
            save may be the save in flight of the run that this folder belongs to.
        """
        self.folder = pathlib.Path(folder).absolute()
        self.keep = keep
        self.best_metric = best_metric
        self.read_only = read_only
        self.failures = 0
        self._pending: tuple[int, Any] | None = None
        self._host_buffers: list[np.ndarray] = []
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._checkpointer = self._open()
        self._identity = self.folder.stat()

    def _open(self) -> ocp.training.Checkpointer:
        if not self.read_only and jax.process_index() == 0:
            self._tidy_up()
        training: Any = ocp.training  # whose own annotations do not fit together
        # Directories made in the background leave threads that wait for minutes where that fails.
        context = ocp.Context()
        context.asynchronous.create_directories_asynchronously = False
        return training.Checkpointer(
            self.folder,
            # We decide when to save; the default policy drops a save while another is in flight.
            # By default it deletes nothing: see _delete_old.
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            cleanup_tmp_directories=not self.read_only,
            context=context,
        )

    def _tidy_up(self) -> None:
        """Ends what a killed run began to delete, and sets aside what is no checkpoint."""
        for folder in self.folder.glob("*.deleted"):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in self.folder.glob("[0-9]*"):
            if folder.name.isdigit() and not is_checkpoint(folder):
                logger.error("%s is not a whole checkpoint.", folder)
                _set_aside(folder)

    def _delete_old(self) -> None:
        """Deletes all checkpoints but the latest and the best.

        Each is renamed first: a run that is killed meanwhile must not leave a half of one. orbax
        itself would delete file by file.
        """
        if self.read_only or jax.process_index() > 0:
            return
        for step in {*self.steps[: -self.keep]} - {self.best_step}:
            folder = self.folder / str(step)
            try:
                shutil.rmtree(folder.rename(folder.with_suffix(".deleted")))
            except OSError as error:
                logger.error("The checkpoint %s cannot be deleted: %s", folder, error.strerror)

    @property
    def steps(self) -> list[int]:
        """The steps that are complete on disk, oldest first."""
        return checkpoint_steps(self.folder)

    @property
    def latest_step(self) -> int | None:
        """The newest complete step, or None."""
        return max(self.steps, default=None)

    def _score(self, metrics: Any) -> float:
        value = float(metrics[self.best_metric])
        return value if higher_is_better(self.best_metric) else -value

    @property
    def best_step(self) -> int | None:
        """The step with the best metric, or None if none was evaluated."""
        steps = self.steps
        scored = {
            c.step: self._score(c.metrics)
            for c in self._checkpointer.checkpoints
            if c.metrics and c.step in steps
        }
        return max(scored, key=scored.__getitem__, default=None)

    def save(self, step: int, state: Any, data: dict, metrics: dict | None = None) -> None:
        """Starts to save; returns as soon as the device buffers may be reused.

        A failed save, for example on a full disk, is logged and counted, and training continues.

        Args:
          step: Number of updates done.
          state: Train state.
          data: Position of the data iterator, and what else the host must know to resume; JSON.
          metrics: Metrics of the evaluation at this step, if there was one; must hold the best
            metric.
        """
        self.wait()
        if not self._is_there():
            raise RunError(
                f"{self.folder} is not the folder any more that it was: it was removed or renamed "
                "while the run wrote into it. Put it back, and the same command resumes."
            )
        if step in self.steps:
            return
        data = {**data, STEP: step}
        with waiting(f"Saving step {step}"):
            self._save(step, state, data, metrics)

    def _save(self, step: int, state: Any, data: dict, metrics: dict | None) -> None:
        save = self._checkpointer.save_checkpointables_async
        try:
            if jax.process_count() == 1:
                # Only the copy to the host holds up training; orbax plans for longer than it takes.
                content = {"state": unstack_blocks(self._host_copy(state)), "data": data}
                response: Any = self._background.submit(
                    lambda: (_result(save(step, content, metrics=metrics)), self._delete_old())
                )
            else:  # the processes plan together, and only their main threads are in step
                content = {"state": jax.jit(unstack_blocks)(state), "data": data}
                response = save(step, content, metrics=metrics)
            self._pending = (step, response)
        except Exception as error:  # noqa: BLE001 - whatever the file system does, training goes on
            self._failed(step, error)

    def _host_copy(self, state: Any) -> Any:
        """Returns the state in host memory: the same for every save, as fresh memory is slow."""
        leaves, structure = jax.tree.flatten(state)
        arrays = [x for x in leaves if not _is_key(x)]
        for array in arrays:
            array.copy_to_host_async()
        if [(x.shape, x.dtype) for x in self._host_buffers] != [(x.shape, x.dtype) for x in arrays]:
            self._host_buffers = [np.empty(x.shape, x.dtype) for x in arrays]
        for buffer, array in zip(self._host_buffers, arrays, strict=True):
            np.copyto(buffer, np.asarray(array))
        buffers = iter(self._host_buffers)
        return structure.unflatten([jnp.copy(x) if _is_key(x) else next(buffers) for x in leaves])

    def wait(self) -> None:
        """Waits for the save in flight."""
        if self._pending is not None:
            step, response = self._pending
            self._pending = None
            try:
                with waiting(f"Saving step {step}"):
                    response.result()
                if jax.process_count() > 1:
                    self._delete_old()
            except Exception as error:  # noqa: BLE001
                self._failed(step, error)

    def _failed(self, step: int, error: Exception) -> None:
        self.failures += 1
        logger.error("The checkpoint of step %d could not be saved: %s", step, _first_line(error))
        # An orbax checkpointer raises the error of one save in the next again, and loses that too.
        with contextlib.suppress(Exception):
            self._checkpointer.close()
        if self._is_there():
            self._checkpointer = self._open()

    def _is_there(self) -> bool:
        """Returns whether the folder is still the one that was opened."""
        try:
            return os.path.samestat(self.folder.stat(), self._identity)
        except OSError:
            return False

    def restore(self, state: Any, *, step: int | None = None) -> tuple[Any, dict, int]:
        """Restores the newest checkpoint that can be read, or that of `step`.

        A damaged newest checkpoint is reported in the log and set aside as `<step>.damaged`, and
        the one before it is used.

        Args:
          state: Abstract state: shapes, dtypes and shardings.
          step: Step of the checkpoint; None: the newest.

        Returns:
          (state, data position, step).

        Raises:
          InputError: if there is none, or none can be read.
        """
        self.wait()
        candidates = [step] if step is not None else self.steps[::-1]
        damaged = []
        for candidate in candidates:
            try:
                with waiting(f"Reading the checkpoint of step {candidate}"):
                    restored = self._checkpointer.load_checkpointables(
                        candidate, {"state": _unstacked_abstract(state), "data": None}
                    )
            except Exception as error:  # noqa: BLE001 - orbax raises many kinds for a damaged file
                logger.error(
                    "The checkpoint of step %d cannot be read: %s", candidate, _first_line(error)
                )
                damaged.append(candidate)
                continue
            data = restored["data"]
            check_step(self.folder / str(candidate), data)
            data.pop(STEP, None)
            if damaged and not self.read_only:
                self._set_aside(damaged)
            return _restack(restored["state"], state), data, candidate
        raise InputError(
            f"No readable checkpoint in {self.folder} (looked for "
            f"{candidates or 'any step'}); train first, or give the --workdir of a run."
        )

    def _set_aside(self, steps: list[int]) -> None:
        """Renames checkpoints: beside a newer one, orbax refuses to save, and keeps only that."""
        self._checkpointer.close()
        if jax.process_index() == 0:
            for step in steps:
                _set_aside(self.folder / str(step))
        multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._checkpointer = self._open()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # A save of several processes waits for all of them, and the error may be that one is dead.
        in_step = error is None or isinstance(error, (Stopped, RunError))
        if in_step or jax.process_count() == 1:
            self.close()

    def close(self) -> None:
        """Waits for the save in flight and releases the folder."""
        self.wait()
        self._background.shutdown()
        self._checkpointer.close()


def _set_aside(folder: pathlib.Path) -> None:
    aside = folder.with_suffix(".damaged")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    logger.error("The checkpoint %s is set aside as %s.", folder.name, aside)


def _result(response: Any) -> Any:
    return response.result()


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _first_line(error: BaseException) -> str:
    """Returns the innermost reason in one line; orbax wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line.split(' [tensorstore_spec')[0]}"


def _unstacked_abstract(state: Any) -> Any:
    """Returns the abstract state with one name per block, and shardings for it."""
    abstract = jax.eval_shape(unstack_blocks, state)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    mesh = jax.tree.leaves(shardings)[0].mesh
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        state_shardings(abstract, mesh=mesh),
    )


def _restack(state: Any, target: Any) -> Any:
    """Returns the state in the structure and the shardings of the target."""
    if jax.tree.structure(state) == jax.tree.structure(target):
        return state

    def stack_like(state: Any) -> Any:
        # The moments of partly frozen stacks stay a list of blocks, see freeze.py.
        return jax.tree.map(
            lambda wanted, part: (
                part
                if jax.tree.structure(part) == jax.tree.structure(wanted)
                else stack_blocks(part)
            ),
            target,
            state,
            is_leaf=lambda node: isinstance(node, dict),
        )

    shardings = jax.tree.map(lambda x: x.sharding, target)
    return jax.jit(stack_like, out_shardings=shardings)(state)
