"""What a run would take and what it would see, told before anything is trained."""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec

from jaxvision.files import cannot_write, output_path
from jaxvision.plots.previews import plot_samples, plot_schedule
from jaxvision.preflight.group_table import group_table, trained_share
from jaxvision.preflight.transfer_policy import transfer_advice
from jaxvision.profiling.gpu_estimate import plan_step
from jaxvision.profiling.gpu_target import COMPILER_OPTIONS, Gpu, compiled_for, read_gpu
from jaxvision.profiling.memory import (
    Bytes,
    StepMemory,
    device_memory,
    largest_batch,
    memory_table,
    size_text,
)
from jaxvision.tasks.task import spread
from jaxvision.terminal import waiting
from jaxvision.train.input import update_key
from jaxvision.train.run import Run
from jaxvision.train.setup import make_run
from jaxvision.train.state import count_params, seed_keys

logger = logging.getLogger(__name__)

SAMPLE_STEPS, SAMPLES_PER_STEP = 5, 5


def preflight(
    run: Run,
    workdir: str | pathlib.Path,
    *,
    memory_gib: float | None = None,
    target: str | None = None,
) -> None:
    """Logs the memory, the largest batch and the compile time of a run, and draws its inputs.

    No weight is allocated and nothing is trained: the steps are compiled for shapes. The folder
    gets three pictures, `schedule.png`, `samples.png` and `eval_samples.png`, so that a run may
    begin or resume there.

    Args:
      run: Run of `make_run`.
      workdir: Folder for the pictures.
      memory_gib: Memory of one device in GiB; None: what it has, see `device_memory`.
      target: Name of a GPU to compile for, which need not be here, see `gpu_names`; None: the
        devices of the run.

    Raises:
      InputError: for whatever a training run would refuse.
    """
    if target is None:
        _preflight(run, StepMemory(run), workdir, device_memory(), memory_gib)
        return
    gpu = read_gpu(target)
    # What is compiled for another machine cannot be loaded from a cache on this one.
    with compiled_for(target) as devices, without_compilation_cache():
        planned = make_run(run.options, devices=devices, workdir=workdir)
        memory = StepMemory(planned, compiler_options=COMPILER_OPTIONS)
        _preflight(run, memory, workdir, gpu.usable_memory, memory_gib, gpu=gpu)


def _preflight(
    run: Run,
    memory: StepMemory,
    workdir: str | pathlib.Path,
    usable: Bytes,
    memory_gib: float | None,
    *,
    gpu: Gpu | None = None,
) -> None:
    """Looks at the inputs with `run`, on this machine, and compiles with `memory`, for any.

    Args:
      run: Run on devices that are here.
      memory: Compiler of the steps of the same run.
      workdir: Folder for the pictures.
      usable: Bytes of one device that programs may use.
      memory_gib: Memory of one device to plan for in its place; None: `usable`.
      gpu: GPU to estimate the time of a step for; None: it is not estimated.
    """
    options = run.options
    _log_run(memory)
    logger.info("Parameter groups:\n%s\n%s", group_table(run), trained_share(run))
    advice = transfer_advice(options, len(run.train_source))
    if advice:
        logger.info("%s", advice)
    run.initial_weights()  # refuses files that do not fit
    _draw(run, workdir)

    start = time.perf_counter()
    with without_compilation_cache(), waiting("Compiling the training step"):
        train = memory.train(options.batch_size)
    logger.info(
        "One cold compilation of the training step took %.1f s (tracing %.1f s).",
        memory.compile_seconds[0],
        time.perf_counter() - start - memory.compile_seconds[0],
    )
    if gpu is not None and memory.program is not None:
        logger.info("%s", plan_step(memory, gpu, options.batch_size).summary())
    with waiting("Compiling the evaluation"):
        evaluation = memory.eval(options.eval_batch_size)
    name = f"training, {options.batch_size} images"
    *smaller, largest = memory.image_sizes
    with waiting("Compiling the steps of other image sizes"):
        columns = {f"{name} of {size}": memory.train(options.batch_size, size) for size in smaller}
    columns[f"{name} of {largest}" if smaller else name] = train
    columns[f"evaluation, {options.eval_batch_size} images"] = evaluation
    logger.info("Memory of one device, as XLA plans it:\n%s", memory_table(columns))
    if gpu is not None and memory_gib is None:
        logger.info(
            "Of the %s of an %s, JAX takes three quarters by default; --memory_gib plans for more.",
            size_text(gpu.memory),
            gpu.title,
        )
    limit = usable if memory_gib is None else memory_gib * 2**30
    with waiting("Compiling for other batch sizes"):
        verdict = _verdict(memory, train, evaluation, limit)
    logger.info("%s", verdict)


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Compiles everything anew inside.

    The option alone changes nothing after the first compilation of a process but the name that a
    program is kept under, so the cache must look at it again.
    """
    config: Any = jax.config  # its options are not declared
    enabled = config.jax_enable_compilation_cache
    config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _log_run(memory: StepMemory) -> None:
    run = memory.run
    options = run.options
    logger.info(
        "%s: %s parameters, %d outputs; mesh of %s on %d %s.",
        options.model.name,
        f"{count_params(run.abstract_state.params):,}",
        run.num_outputs,
        " x ".join(f"{axis}={size}" for axis, size in run.mesh.shape.items()),
        run.mesh.size,
        run.mesh.devices.flat[0].device_kind,
    )
    logger.info(
        "%s steps of %s images: %.4g epochs of %s training images; %s evaluation images.",
        f"{run.total_steps:,}",
        f"{options.batch_size:,}",
        run.length.total_epochs,
        f"{run.length.num_examples:,}",
        f"{len(run.eval_source):,}",
    )


def _draw(run: Run, workdir: str | pathlib.Path) -> None:
    """Writes the pictures; every process takes part, the first one writes."""
    with waiting("Reading and augmenting the first images"):
        samples = first_samples(run) if run.task.data.has_images else None
    if jax.process_index() > 0:
        return
    workdir = output_path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        plot_schedule(
            run.optimizer.schedule,
            total_steps=run.total_steps,
            steps_per_epoch=run.length.num_examples / run.length.batch_size,
            path=workdir / "schedule.png",
        )
        if samples is not None:
            steps = [f"step {step + 1}" for step in range(len(samples[0]))]
            _draw_samples(run, *samples, path=workdir / "samples.png", row_names=steps)
            samples = evaluation_samples(run)
            path = workdir / "eval_samples.png"
            _draw_samples(run, *samples, path=path, row_names=["evaluation"])
    except OSError as error:
        raise cannot_write(workdir, error) from error
    logger.info("See the pictures in %s.", workdir)


def _draw_samples(
    run: Run, images: np.ndarray, shown: np.ndarray, *, path: pathlib.Path, row_names: list[str]
) -> None:
    titles = [run.task.titles(row) for row in shown]
    plot_samples(images, titles, path, row_names=row_names)


def evaluation_samples(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Returns images of the evaluation split and their targets, one row as of `first_samples`."""
    samples = run.task.eval_subset(spread(len(run.eval_source), SAMPLES_PER_STEP))
    batch = next(iter(run.eval_batches(samples)))
    batch = {name: x[batch["mask"]] for name, x in batch.items()}
    return batch["image"][None], np.asarray(run.task.shown(batch))[None]


def first_samples(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and their targets as the first steps of a run see them.

    Returns:
      uint8 images [steps, examples, height, width, 3], without normalisation, and what the task
      shows of their targets, [steps, examples, ...]: of a classifier the shares of the classes, of
      a captioner the tokens.
    """
    seen_input, pixels = run.train_input, run.spec.preprocess
    augment = seen_input.augment
    mean, std = (255 * jnp.asarray(x)[None, None, None] for x in (pixels.mean, pixels.std))

    def as_pixels(key: jax.Array, images: jax.Array) -> jax.Array:
        assert augment is not None  # or the images are pixels as they are
        return augment(key, images) * std + mean

    # Of pixels instead of normalised ones: a blend is the same.
    look = dataclasses.replace(
        seen_input,
        preprocess_fn=lambda images: images.astype(jnp.float32),
        augment=None if augment is None else as_pixels,
    )

    @functools.partial(jax.jit, out_shardings=NamedSharding(run.mesh, PartitionSpec()))
    def seen(step: jax.Array, batch: dict) -> tuple[jax.Array, jax.Array]:
        _, key = seed_keys(jax.random.key(run.options.seed))
        batch = look(batch, update_key(key, step))
        images = jnp.round(batch["image"][:SAMPLES_PER_STEP]).astype(np.uint8)
        return images, run.task.shown(batch)[:SAMPLES_PER_STEP]

    corrupt = run.corrupt_counter(run.train_source)
    samples = []
    # Images of another size do not fit into the same picture.
    steps = min(SAMPLE_STEPS, *(step for step, _ in run.image_sizes[1:]), run.total_steps)
    with contextlib.closing(run.train_batches()) as batches:
        for step in range(steps):
            batch = next(batches)
            corrupt.update(batch)
            samples.append(jax.device_get(seen(np.int32(step), run.put(batch))))
    images, shown = zip(*samples, strict=True)
    return np.stack(images), np.stack(shown)


def _verdict(
    memory: StepMemory, train: dict[str, Bytes], evaluation: dict[str, Bytes], limit: Bytes
) -> str:
    """Returns what fits into `limit` bytes a device, and what to change where nothing does."""
    run = memory.run
    options, room = run.options, size_text(limit)
    state, needed = sum(memory.state_parts().values()), sum(train.values())
    if state > limit:
        return (
            f"The state alone needs {size_text(state)} of {room}: split it over more devices "
            "(--config.mesh.fsdp), choose a smaller model or optimizer, or keep no averages "
            "(--config.ema_decay=0)."
        )
    unit = run.mesh.size * options.accumulate_steps
    compiled = len(memory.compile_seconds)
    largest, at_largest = largest_batch(
        lambda size: sum(memory.train(size).values()),
        {0: state, options.batch_size: needed},
        limit=limit,
        unit=unit,
        greatest=max(options.batch_size, len(run.train_source) // unit * unit),
    )
    seconds = memory.compile_seconds[compiled:]
    cost = f"{len(seconds)} more compilations, {sum(seconds):.1f} s"
    if largest == 0:
        return (
            f"No batch size from {unit} on was found to fit into {room} ({cost}): set "
            "--config.model.dtype=bfloat16 or, for a ViT, --config.model.kwargs.remat=True, or "
            "choose smaller images or a smaller model."
        )
    lines = [
        f"The largest --config.batch_size found to fit into {room} is {largest:,}, which needs "
        f"{size_text(at_largest)} (in steps of {unit}; {cost})."
    ]
    if needed > limit:
        lines.append(
            f"A batch of {options.batch_size:,} does not fit: lower it, or keep it and raise "
            "--config.accumulate_steps."
        )
    if sum(evaluation.values()) > limit:
        lines.append("The evaluation does not fit: lower --config.eval_batch_size.")
    return " ".join(lines)
