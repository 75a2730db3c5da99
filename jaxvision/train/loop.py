"""The story of a run: open, resume, train, evaluate, save."""

import collections
import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from typing import Any

import jax
import numpy as np

from jaxvision.errors import InputError, RunError
from jaxvision.files import newest_checkpoint
from jaxvision.options.length import Cadence
from jaxvision.tasks.task import Metrics
from jaxvision.terminal import waiting
from jaxvision.train.agreement import agree_on_lock
from jaxvision.train.checkpoint import Checkpointer
from jaxvision.train.init_from import start_from
from jaxvision.train.lock import lock_workdir
from jaxvision.train.monitor import STEPS_IN_FLIGHT, NonFiniteGuard, TrainLog, compiling
from jaxvision.train.optim.rate_factor import set_rate_factor
from jaxvision.train.optim.weight_average import ScheduleFree, Swa
from jaxvision.train.progress import Progress, progress_of
from jaxvision.train.run import Run
from jaxvision.train.state import TrainState, count_params, create_state
from jaxvision.train.stop import Stopped, StopSignal
from jaxvision.train.workdir import compare_run, has_checkpoint, open_workdir
from jaxvision.train.writer import MetricWriter

logger = logging.getLogger(__name__)


def train(run: Run, workdir: str | pathlib.Path) -> TrainState:
    """Trains the model of a run, or resumes where the folder's run ended.

    Args:
      run: Run of `make_run`.
      workdir: Folder of the run; the same folder again resumes, bit for bit.

    Returns:
      The state after the last step.

    Raises:
      InputError: if the folder holds another run, is written by one, or cannot be written.
      Stopped: after a signal; the state is saved.
      TrainingDiverged: after `max_skipped_steps` non-finite steps in a row.
      RunError: if the last checkpoint could not be saved.
    """
    with lock_workdir(workdir, holds=jax.process_index() == 0) as folder:
        agree_on_lock(folder)
        return _train(run, folder)


def _train(run: Run, workdir: pathlib.Path) -> TrainState:
    """Does what `train` does, in a folder that no other run writes into."""
    options = run.options
    initial = None if has_checkpoint(workdir) else run.initial_weights()
    open_workdir(workdir, options, run.task)
    checkpointer = Checkpointer(
        workdir / "checkpoints",
        keep=options.checkpoint.keep,
        best_metric=options.checkpoint.best_metric,
    )
    with (
        StopSignal(lambda: newest_checkpoint(workdir)) as stop,
        checkpointer,
        closing(run.train_batches()) as data,
    ):
        progress = progress_of(options)
        state, start = resume_or_create(run, checkpointer, data, progress, initial)
        if start >= run.total_steps or progress.ended:
            logger.info("The run is finished: %s.", _end(run, start, progress))
            return state
        logger.info(
            "%s: %s parameters, %s%s training, %s evaluation examples; %d steps of %d.",
            options.model.name,
            f"{count_params(state.params):,}",
            f"{run.num_outputs} outputs, " if run.num_outputs else "",
            f"{len(run.train_source):,}",
            f"{len(run.eval_source):,}",
            run.total_steps,
            options.batch_size,
        )
        with waiting("Opening the files of the metrics and the trackers"):
            writer = MetricWriter(
                workdir,
                options=options,
                total_steps=run.total_steps,
                resume_step=start,
                batch_size=options.batch_size,
                steps_per_epoch=run.length.epochs.updates,
                best_metric=options.checkpoint.best_metric,
                enabled=jax.process_index() == 0,
            )
        with writer:
            state, end = _run_steps(run, state, start, data, progress, checkpointer, writer, stop)
    if checkpointer.latest_step != end:
        raise RunError(
            f"The last checkpoint could not be saved in {checkpointer.folder} (the newest there is "
            f"of step {checkpointer.latest_step}); make room there, and the same command resumes."
        )
    return state


def _run_steps(
    run: Run,
    state: TrainState,
    start: int,
    data: Any,
    progress: Progress,
    checkpointer: Checkpointer,
    writer: MetricWriter,
    stop: StopSignal,
) -> tuple[TrainState, int]:
    """Runs the steps from `start` to the end: train, log, evaluate, save.

    Returns:
      (state, updates done), fewer than those of the run if the evaluations ended it.
    """
    options = run.options
    train_step = run.train_step()
    constants = run.constants()
    evaluate = run.evaluator()
    recalibrate = _recalibrate_average(run)
    batches = _device_batches(run, data)
    guard = NonFiniteGuard(options.max_skipped_steps, writer.show)
    log = TrainLog(writer, options.batch_size, run.length.epochs)
    sizes = dict(run.image_sizes)
    for done in range(start + 1, run.total_steps + 1):  # `done` = updates when this step ends
        last = done == run.total_steps
        compiles = done == start + 1
        if done - 1 in sizes and len(sizes) > 1:
            compiles = True
            log.end_before_compiling()
            size = sizes[done - 1]
            logger.info("Training images of %s pixels from step %d on: it compiles.", size, done)
        with waiting("Reading the first images") if done == start + 1 else nullcontext():
            batch, position, records = next(batches)
        with compiling("the training step") if compiles else nullcontext():
            state, metrics = train_step(state, batch, constants)
        guard.watch(done, metrics, records)
        log.add(done, metrics)
        # The first two steps tell at once that it works; after a resume they would be two noisy
        # points of a curve whose other points are means.
        if done <= 2 or last or _due(done, run.log_lines, run.evaluations, run.checkpoints):
            log.schedule()

        results = None
        if _due(done, run.evaluations) or last:
            log.flush()
            writer.show(done, metrics)  # fetched by now
            state = recalibrate(state, done)  # as it is evaluated, so it is saved
            results = evaluate(run.weights_of(state))
            writer.write(done, results)
            if progress.update(done, results):
                opt_state = set_rate_factor(state.opt_state, progress.rate_factor)
                state = dataclasses.replace(state, opt_state=opt_state)
            last |= progress.ended
            log.end_epochs(results=results, last=last)
            log.restart()
        signum = stop.requested(done)
        if results or signum or _due(done, run.checkpoints):
            log.schedule()
            log.flush()  # what is before the checkpoint is never computed again
            log.end_epochs()
            checkpointer.save(done, state, position | progress.saved(), results)
        if last:
            break
        if signum:
            checkpointer.wait()
            raise Stopped(signum, done, checkpointer.latest_step)
    guard.finish()
    log.flush()
    if progress.ended:
        logger.info("The run is finished: %s.", _end(run, done, progress))
    return state, done


def evaluate_run(run: Run, workdir: str | pathlib.Path) -> Metrics:
    """Evaluates the newest checkpoint of a run; returns {"eval/accuracy": ..., ...}.

    Args:
      run: Run of `make_run`.
      workdir: Folder of the run.

    Raises:
      InputError: if the folder holds no checkpoint, or that of another model.
    """
    state, step = restore_run(run, workdir)
    results = run.evaluator()(run.weights_of(state))
    logger.info("Step %d: %s", step, "  ".join(f"{k} {v:.4f}" for k, v in results.items()))
    return results


def restore_run(run: Run, workdir: str | pathlib.Path) -> tuple[TrainState, int]:
    """Returns the state of the newest checkpoint of a run, and the updates done until then.

    Args:
      run: Run of `make_run`.
      workdir: Folder of the run.

    Raises:
      InputError: if the folder holds no checkpoint, or that of another model.
    """
    folder = pathlib.Path(workdir).expanduser() / "checkpoints"
    if not folder.is_dir():
        raise InputError(f"No run in {workdir}; train first, or give the --workdir of a run.")
    with Checkpointer(folder, read_only=True) as checkpointer:
        try:
            run.task.check_kept(folder.parent)
            state, _, step = checkpointer.restore(run.abstract_state)
        except InputError as error:
            differences = compare_run(folder.parent, run.options)
            other = f" The run there is another: {differences}." if differences else ""
            raise InputError(f"{error}{other}") from error
    if run.options.eval.batch_norm_batches:
        recalibrated = run.recalibrator(run.options.eval.batch_norm_batches)
        stats = {"batch_stats": recalibrated(state.params, state.batch_stats)}
        if state.ema_params is not None:
            stats["ema_batch_stats"] = recalibrated(state.ema_params, state.ema_batch_stats)
        state = dataclasses.replace(state, **stats)
    return state, step


def _end(run: Run, step: int, progress: Progress) -> str:
    """Returns where and why a run ended."""
    reason = f", {progress.explain_end()}" if progress.ended else ""
    return f"step {step} of {run.total_steps}{reason}"


def resume_or_create(
    run: Run, checkpointer: Checkpointer, data: Any, progress: Progress, initial: Any = None
) -> tuple[TrainState, int]:
    """Returns (state, updates done) of the newest checkpoint, or of a new run.

    Data iterator and progress go to the position of the checkpoint. A new run starts from the
    weights of `load_initial`, if there are any.
    """
    if checkpointer.latest_step is None:
        with waiting("Initialising the model"):
            state = create_state(
                run.build, run.optimizer.tx, seed=run.options.seed, abstract=run.abstract_state
            )
        return state if initial is None else start_from(state, initial), 0
    state, position, step = checkpointer.restore(run.abstract_state)
    data.set_state(position, changed=run.options.resume_changed)
    progress.restore(position)
    logger.info("Resumed from step %d.", step)
    return state, step


def _due(step: int, *cadences: Cadence) -> bool:
    return any(cadence.count(step) for cadence in cadences)


def _recalibrate_average(run: Run) -> Callable[[TrainState, int], TrainState]:
    """Returns the function (state, updates done) -> state.

    A stochastic or schedule-free average of the weights gets running statistics of its own: the
    mean of those of the weights along the way are not the ones that it sees.
    """
    swa = run.average
    if not isinstance(swa, Swa | ScheduleFree):
        return lambda state, done: state
    measured = run.recalibrator(run.options.swa.batch_norm_batches)

    def recalibrate(state: TrainState, done: int) -> TrainState:
        if done < swa.start:  # it is the newest weights, and has theirs
            return state
        with waiting("Measuring the statistics of the averaged BatchNorms"):
            stats = measured(state.ema_params, state.ema_batch_stats)
        return dataclasses.replace(state, ema_batch_stats=stats)

    return recalibrate


def _device_batches(run: Run, iterator: Any) -> Iterator[tuple[dict, dict, np.ndarray]]:
    """Yields (device batch, data position after it, record indices), sent ahead of their use.

    The position belongs to the batch that is yielded, not to those already read ahead, so that a
    checkpoint resumes at exactly the next batch.
    """
    corrupt = run.corrupt_counter(run.train_source)
    ahead: collections.deque = collections.deque()
    while True:
        while len(ahead) < STEPS_IN_FLIGHT:
            batch = next(iterator)
            corrupt.update(batch)
            ahead.append((run.put(batch), iterator.get_state(), batch["index"]))
        yield ahead.popleft()
