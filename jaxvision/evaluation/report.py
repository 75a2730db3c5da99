"""The pictures that a finished run leaves in its folder."""

import logging
import pathlib

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from jaxvision.plots.caption_pictures import plot_captions
from jaxvision.plots.curves import plot_curves
from jaxvision.plots.prediction_grid import plot_predictions
from jaxvision.train.run import Run
from jaxvision.train.setup import make_run
from jaxvision.train.state import TrainState
from jaxvision.train.workdir import Config

logger = logging.getLogger(__name__)

NUM_SAMPLES = 25  # images in the grid of predictions
NUM_CAPTIONS = 12


def write_report(config: Config, state: TrainState, workdir: str | pathlib.Path) -> None:
    """Writes `curves.png` and `predictions.png` or `captions.png`.

    They are of the averaged weights where there are any.
    """
    workdir = pathlib.Path(workdir).expanduser().absolute()
    run = make_run(config)
    weights = (state.params, state.batch_stats)
    if state.ema_params is not None:
        weights = (state.ema_params, state.ema_batch_stats)
    draw = _draw_predictions if run.data.captions is None else _draw_captions
    picture = draw(run, weights, workdir)
    if jax.process_index() > 0:
        return
    logger.info("See %s and %s beside it.", plot_curves(workdir), picture)


def _draw_predictions(run: Run, weights: tuple, workdir: pathlib.Path) -> str:
    @jax.jit
    def predict(params, batch_stats, images):
        model = nnx.merge(run.graphdef, params, batch_stats, copy=True)
        return jax.nn.softmax(model(run.preprocess_fn(images)))

    samples = _spread(len(run.eval_source), NUM_SAMPLES)
    batch = next(iter(run.eval_batches(run.data.eval_subset(samples))))
    # Of all processes; the first one's rows, which it has the images of, come first.
    probabilities = multihost_utils.process_allgather(
        predict(*weights, run.put(batch)["image"]), tiled=True
    )
    if jax.process_index() == 0:
        count = min(NUM_SAMPLES, int(batch["mask"].sum()))
        plot_predictions(
            batch["image"][:count],
            batch["label"][:count],
            np.asarray(probabilities)[:count],
            run.data.class_names,
            workdir / "predictions.png",
        )
    return "predictions.png"


def _draw_captions(run: Run, weights: tuple, workdir: pathlib.Path) -> str:
    captions = run.data.captions
    assert captions is not None  # or predictions would be drawn
    if not run.data.has_images:
        return "metrics.jsonl"  # features show nothing
    samples = _spread(len(run.eval_source), NUM_CAPTIONS)
    batch = next(iter(run.eval_batches(run.data.eval_subset(samples))))
    decoded = run.caption_step(captions.settings)(weights[0], weights[1], run.put(batch))
    tokens = np.asarray(multihost_utils.process_allgather(decoded.tokens[:, 0], tiled=True))
    if jax.process_index() == 0:
        count = min(NUM_CAPTIONS, int(batch["mask"].sum()))
        rows = [samples[int(i)] for i in batch["index"][:count]]
        plot_captions(
            list(batch["image"][:count]),
            [captions.vocabulary.decode(row) for row in tokens[:count]],
            [run.eval_source.captions(i)[0] for i in rows],
            workdir / "captions.png",
        )
    return "captions.png"


def _spread(size: int, count: int) -> range:
    """Returns indices evenly spaced, because folders come class by class."""
    return range(0, size, max(1, size // count))[:count]
