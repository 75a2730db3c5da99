"""What a run would take and what it would see, told before anything is trained."""

import contextlib
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

from jaxvision.plots.previews import caption_title, class_shares, plot_samples, plot_schedule
from jaxvision.preflight.group_table import group_table
from jaxvision.preflight.transfer_policy import transfer_advice
from jaxvision.profiling.memory import (
    Bytes,
    StepMemory,
    device_memory,
    largest_batch,
    memory_table,
    size_text,
)
from jaxvision.train.run import Run
from jaxvision.train.setup import make_run
from jaxvision.train.state import augment_key, count_params, seed_keys, step_keys
from jaxvision.train.workdir import Config, cannot_write

logger = logging.getLogger(__name__)

SAMPLE_STEPS, SAMPLES_PER_STEP = 5, 5


def preflight(
    config: Config, workdir: str | pathlib.Path, *, memory_gib: float | None = None
) -> None:
    """Logs the memory, the largest batch and the compile time of a run, and draws its inputs.

    No weight is allocated and nothing is trained: the steps are compiled for shapes. The folder
    gets `schedule.png` and `samples.png` only, so that a run may begin or go on there.

    Args:
      config: see configs/common.py.
      workdir: folder for the pictures.
      memory_gib: of one device; None: what it has, see `device_memory`.

    Raises:
      InputError: for whatever a training run would refuse.
    """
    run = make_run(config)
    memory = StepMemory(run)
    _log_run(run, memory)
    logger.info("Parameter groups:\n%s", group_table(run))
    advice = transfer_advice(config, len(run.train_source))
    if advice:
        logger.info("%s", advice)
    run.initial_weights()  # refuses files that do not fit
    _draw(run, workdir)

    start = time.perf_counter()
    with without_compilation_cache():
        train = memory.train(config.batch_size)
    logger.info(
        "One cold compilation of the training step took %.1f s (tracing %.1f s).",
        memory.compile_seconds[0],
        time.perf_counter() - start - memory.compile_seconds[0],
    )
    evaluation = memory.eval(config.eval_batch_size)
    name = f"training, {config.batch_size} images"
    *smaller, largest = memory.image_sizes
    columns = {f"{name} of {size}": memory.train(config.batch_size, size) for size in smaller}
    columns[f"{name} of {largest}" if smaller else name] = train
    columns[f"evaluation, {config.eval_batch_size} images"] = evaluation
    logger.info("Memory of one device, as XLA plans it:\n%s", memory_table(columns))
    limit = device_memory() if memory_gib is None else memory_gib * 2**30
    logger.info("%s", _verdict(run, memory, train, evaluation, limit))


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


def _log_run(run: Run, memory: StepMemory) -> None:
    config, num_examples = run.config, len(run.train_source)
    logger.info(
        "%s: %s parameters, %d outputs; mesh of %s on %d %s.",
        config.model.name,
        f"{count_params(run.abstract_state.params):,}",
        run.num_classes,
        " x ".join(f"{axis}={size}" for axis, size in run.mesh.shape.items()),
        run.mesh.size,
        run.mesh.devices.flat[0].device_kind,
    )
    logger.info(
        "%s steps of %s images: %.4g epochs of %s training images; %s evaluation images.",
        f"{run.total_steps:,}",
        f"{config.batch_size:,}",
        run.total_steps * config.batch_size / num_examples,
        f"{num_examples:,}",
        f"{len(run.eval_source):,}",
    )


def _draw(run: Run, workdir: str | pathlib.Path) -> None:
    """Writes the two pictures; every process takes part, the first one writes."""
    samples = first_samples(run) if run.data.has_images else None
    if jax.process_index() > 0:
        return
    workdir = pathlib.Path(workdir).expanduser().absolute()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        plot_schedule(
            run.schedule,
            total_steps=run.total_steps,
            steps_per_epoch=len(run.train_source) / run.config.batch_size,
            path=workdir / "schedule.png",
        )
        if samples is not None:
            images, targets = samples
            plot_samples(images, _titles(run, targets), workdir / "samples.png")
    except OSError as error:
        raise cannot_write(workdir, error) from error
    logger.info("See the pictures in %s.", workdir)


def _titles(run: Run, targets: np.ndarray) -> list[list[str]]:
    """Returns what stands above each image: its classes, or its caption."""
    captions = run.data.captions
    if captions is not None:
        return [[caption_title(captions.vocabulary.decode(x)) for x in row] for row in targets]
    return [[class_shares(x, run.data.class_names) for x in row] for row in targets]


def first_samples(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and their targets as the first steps of a run see them.

    Returns:
      uint8 images [steps, examples, height, width, 3], without normalisation, and the shares of
      their labels, float32 [steps, examples, classes], or their tokens, int32 [steps, examples,
      length].
    """

    @functools.partial(jax.jit, out_shardings=NamedSharding(run.mesh, PartitionSpec()))
    def seen(step: jax.Array, batch: dict) -> tuple[jax.Array, jax.Array]:
        _, key = seed_keys(jax.random.key(run.config.seed))
        mix_key, _ = step_keys(key, step)
        images = batch["image"].astype(jnp.float32)
        if run.augment is not None:
            mean, std = (255 * jnp.asarray(x) for x in (preprocess.mean, preprocess.std))
            images = run.augment(augment_key(key, step), batch["image"])
            images = images * std[None, None, None] + mean[None, None, None]
        if run.data.captions is not None:
            targets = batch["tokens"]
        elif run.mix is not None:  # of pixels instead of normalised ones: a blend is the same
            images, targets = run.mix(mix_key, images, batch["label"])
        else:
            targets = jax.nn.one_hot(batch["label"], run.num_classes)
        return jnp.round(images[:SAMPLES_PER_STEP]).astype(np.uint8), targets[:SAMPLES_PER_STEP]

    preprocess = run.spec.preprocess
    corrupt = run.corrupt_counter(run.train_source)
    samples = []
    # Images of another size do not fit into the same picture.
    steps = min(SAMPLE_STEPS, *(step for step, _ in run.image_sizes[1:]), run.total_steps)
    with contextlib.closing(run.train_batches()) as batches:
        for step in range(steps):
            batch = next(batches)
            corrupt.update(batch)
            samples.append(jax.device_get(seen(np.int32(step), run.put(batch))))
    images, targets = zip(*samples, strict=True)
    return np.stack(images), np.stack(targets)


def _verdict(
    run: Run,
    memory: StepMemory,
    train: dict[str, Bytes],
    evaluation: dict[str, Bytes],
    limit: Bytes,
) -> str:
    """Returns what fits into `limit` bytes a device, and what to change where nothing does."""
    config, room = run.config, size_text(limit)
    state, needed = sum(memory.state_parts().values()), sum(train.values())
    if state > limit:
        return (
            f"The state alone needs {size_text(state)} of {room}: split it over more devices "
            "(--config.mesh.fsdp), choose a smaller model or optimizer, or keep no averages "
            "(--config.ema_decay=0)."
        )
    unit = run.mesh.size * config.accumulate_steps
    compiled = len(memory.compile_seconds)
    largest, at_largest = largest_batch(
        lambda size: sum(memory.train(size).values()),
        {0: state, config.batch_size: needed},
        limit=limit,
        unit=unit,
        greatest=max(config.batch_size, len(run.train_source) // unit * unit),
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
            f"A batch of {config.batch_size:,} does not fit: lower it, or keep it and raise "
            "--config.accumulate_steps."
        )
    if sum(evaluation.values()) > limit:
        lines.append("The evaluation does not fit: lower --config.eval_batch_size.")
    return " ".join(lines)
