"""The learning rate range test: a rate that rises until the loss diverges, and what it suggests."""

import collections
import contextlib
import dataclasses
import itertools
import logging
import math
import pathlib
from collections.abc import Generator, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.files import cannot_write, output_path, write_json
from jaxvision.plots.curves import EVAL_EMA, GRID, TRAIN
from jaxvision.plots.picture import save_picture
from jaxvision.terminal import counted
from jaxvision.train.init_from import start_from
from jaxvision.train.monitor import STEPS_IN_FLIGHT, compiling
from jaxvision.train.optim.optimizer import make_optimizer, not_decayed_names
from jaxvision.train.run import Run
from jaxvision.train.state import create_state
from jaxvision.train.step import Optimizer

logger = logging.getLogger(__name__)

PICTURE, NUMBERS = "lr_finder.png", "lr_finder.json"
# fastai's: the first tenth has not settled, the last points belong to the divergence.
SKIPPED_FIRST, SKIPPED_LAST = 0.1, 5


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """The losses of a range test, and the rates they suggest.

    Attributes:
      rates: Learning rate of each step that was made.
      losses: Loss of each step; the last ones may not be finite.
      smoothed: Moving average of the losses, without the bias of its start.
      diverged: Whether the loss diverged, which ends the test.
      steepest: Learning rate at which the smoothed loss falls fastest over the logarithm of the
        rate.
      minimum: Tenth of the learning rate at which the smoothed loss is lowest.
      fall: Fall of the smoothed loss, from its first settled point to its lowest.
      noise: Standard deviation of the loss from step to step, before the smoothed loss is lowest.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: bool
    steepest: float
    minimum: float
    fall: float
    noise: float


def rising_rate(start: float, end: float, num_steps: int) -> optax.Schedule:
    """Returns the schedule that goes from `start` at step 0 to `end` at the last, exponentially."""
    factor = math.log(end / start) / max(num_steps - 1, 1)

    def schedule(step) -> jax.Array:
        count = jnp.asarray(step).astype(jnp.result_type(float))
        return start * jnp.exp(factor * count)

    return schedule


def range_test(
    steps: Iterable[tuple[float, float]],
    *,
    num_steps: int,
    smoothing: float = 0.98,
    stop_factor: float = 4.0,
) -> RangeTest:
    """Returns what the losses under a rising rate tell; the defaults are fastai's.

    Args:
      steps: Pairs (rate, loss) of the steps; taken until the smoothed loss is above `stop_factor`
        times its best, or a loss is not finite.
      num_steps: Number of steps of the whole test.
      smoothing: Weight of the past in the moving average.
      stop_factor: Factor over the best smoothed loss above which the test ends.

    Raises:
      InputError: if so few steps were made that nothing can be told.

    Source: Smith 2017, Cyclical Learning Rates, section 3.3; Howard and Gugger 2020, fastai.
    """
    rates, losses, smoothed = [], [], []
    average, best, diverged = 0.0, math.inf, False
    for rate, loss in steps:
        average = smoothing * average + (1 - smoothing) * loss
        rates.append(rate)
        losses.append(loss)
        smoothed.append(average / (1 - smoothing ** len(losses)))
        diverged = (
            not smoothed[-1] <= stop_factor * best if len(losses) > 1 else not math.isfinite(loss)
        )
        if diverged:
            break
        best = min(best, smoothed[-1])
    first = int(num_steps * SKIPPED_FIRST)
    last = len(rates) - SKIPPED_LAST
    if last - first < 2 or not np.isfinite(smoothed[first:last]).all():
        raise InputError(
            f"The loss diverged in step {len(rates)} of {num_steps}, at the rate "
            f"{rates[-1]:.2g}, before anything could be told; lower --config.find_lr.start_rate "
            "or raise --config.find_lr.num_steps."
        )
    kept, curve = np.asarray(rates[first:last]), np.asarray(smoothed[first:last])
    slopes = np.diff(curve) / np.diff(np.log(kept))
    lowest = int(curve.argmin())
    return RangeTest(
        rates=tuple(rates),
        losses=tuple(losses),
        smoothed=tuple(smoothed),
        diverged=diverged,
        steepest=float(kept[slopes.argmin()]),
        minimum=float(kept[lowest]) / 10,
        fall=float(curve[0] - curve[lowest]),
        noise=float(np.std(np.diff(losses[: first + max(lowest, 2)])) / math.sqrt(2)),
    )


def find_lr(run: Run, workdir: str | pathlib.Path) -> RangeTest:
    """Trains a throw-away copy under a rising rate, and logs which rate to train with.

    The folder gets `lr_finder.png` and `lr_finder.json` only, so that a run may begin or resume
    there. The copy starts where a new run would: weights, groups and clipping are those of the
    run; the rate is that of the group whose multiplier is 1.

    Args:
      run: Run of `make_run`.
      workdir: Folder for the two files.

    Raises:
      InputError: if the loss diverges at once.
    """
    options = run.options.find_lr
    schedule = rising_rate(options.start_rate, options.end_rate, options.num_steps)
    params, batch_stats = run.abstract_state.params, run.abstract_state.batch_stats
    model = nnx.merge(run.graphdef, params, batch_stats, copy=True)
    tx = make_optimizer(
        params,
        run.options.optimizer,
        schedule=schedule,
        groups=run.groups,
        not_decayed=not_decayed_names(model),
        upper_bounds=getattr(model, "upper_bounds", None),
        with_rate_factor=run.options.schedule.is_plateau,
    )
    run = dataclasses.replace(run, optimizer=Optimizer(tx, schedule))
    logger.info(
        "%d steps of %d images from the rate %.2g to %.2g, or until the loss diverges.",
        options.num_steps,
        run.options.batch_size,
        options.start_rate,
        options.end_rate,
    )
    with contextlib.closing(_steps(run, options.num_steps)) as steps:
        result = range_test(
            counted(steps, options.num_steps, "Trying learning rates"),
            num_steps=options.num_steps,
            smoothing=options.smoothing,
            stop_factor=options.stop_factor,
        )
    if jax.process_index() == 0:
        workdir = output_path(workdir)
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            write_json(workdir / NUMBERS, _finite(dataclasses.asdict(result)))
            plot_range_test(result, workdir / PICTURE)
        except OSError as error:
            raise cannot_write(workdir, error) from error
        logger.info("%s See %s.", suggestion(result), workdir / PICTURE)
    return result


def suggestion(result: RangeTest) -> str:
    """Returns what to type, or that the loss has told nothing."""
    how = "diverged at" if result.diverged else "did not diverge up to"
    if result.fall <= result.noise:
        return (
            f"The loss {how} {result.rates[-1]:.2g} but fell by {result.fall:.2g} at most, which "
            f"is within its noise of {result.noise:.2g}: raise --config.find_lr.num_steps or "
            "--config.batch_size."
        )
    return (
        f"The loss {how} {result.rates[-1]:.2g}. For batches of this size type "
        f"--config.optimizer.learning_rate={result.steepest:.2g} (where it falls fastest) or "
        f"{result.minimum:.2g} (a tenth of where it is lowest)."
    )


def plot_range_test(result: RangeTest, path: str | pathlib.Path) -> None:
    """Draws the loss over the rate, with both suggestions."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(result.rates, result.losses, color=TRAIN, alpha=0.25, label="loss of a step")
    axes.plot(result.rates, result.smoothed, color=TRAIN, label="smoothed")
    for rate, name, style in (
        (result.steepest, "steepest", "-"),
        (result.minimum, "minimum / 10", "--"),
    ):
        axes.axvline(rate, color=EVAL_EMA, ls=style, label=f"{name}: {rate:.2g}")
    settled = [x for x in result.smoothed[: -SKIPPED_LAST or None] if math.isfinite(x)]
    span = max(settled) - min(settled)
    axes.set_ylim(min(settled) - 0.1 * span - 1e-9, max(settled) + 0.5 * span + 1e-9)
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_picture(figure, path)


def _steps(run: Run, num_steps: int) -> Generator[tuple[float, float], None, None]:
    """Yields (rate, loss) of the steps of a new run; each is fetched when others are on their way.

    Steps whose loss is not finite leave the state alone, so the losses before them are sound.
    """
    initial = run.initial_weights()
    state = create_state(
        run.build, run.optimizer.tx, seed=run.options.seed, abstract=run.abstract_state
    )
    state = state if initial is None else start_from(state, initial)
    train_step = run.train_step()
    constants = run.constants()
    corrupt = run.corrupt_counter(run.train_source)
    in_flight: collections.deque = collections.deque()
    first = True

    def fetch() -> tuple[float, float]:
        rate, loss = jax.device_get(in_flight.popleft())
        return float(rate), float(loss)

    with contextlib.closing(run.train_batches()) as batches:
        for batch in itertools.islice(batches, num_steps):
            corrupt.update(batch)
            with compiling("the training step") if first else contextlib.nullcontext():
                state, metrics = train_step(state, run.put(batch), constants)
            first = False
            in_flight.append((metrics["learning_rate"], metrics["loss"]))
            if len(in_flight) > STEPS_IN_FLIGHT:
                yield fetch()
        while in_flight:
            yield fetch()


def _finite(content: dict) -> dict:
    """Returns the content with null for what is not finite, as JSON has no NaN."""
    return {
        name: [x if math.isfinite(x) else None for x in value]
        if isinstance(value, tuple)
        else value
        for name, value in content.items()
    }
