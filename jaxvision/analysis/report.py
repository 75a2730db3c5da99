"""The pictures that a finished run leaves in its folder."""

import logging
import pathlib

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from jaxvision.analysis.curves import plot_curves
from jaxvision.analysis.predictions import plot_predictions
from jaxvision.data.source import Subset
from jaxvision.train.setup import make_run
from jaxvision.train.state import TrainState
from jaxvision.train.workdir import Config

logger = logging.getLogger(__name__)

NUM_SAMPLES = 25  # images in the grid of predictions


def write_report(config: Config, state: TrainState, workdir: str | pathlib.Path) -> None:
    """Writes `curves.png` and `predictions.png`, from the averaged weights where there are any."""
    workdir = pathlib.Path(workdir).expanduser().absolute()
    run = make_run(config)
    params, batch_stats = state.params, state.batch_stats
    if state.ema_params is not None:
        params, batch_stats = state.ema_params, state.ema_batch_stats

    @jax.jit
    def predict(params, batch_stats, images):
        model = nnx.merge(run.graphdef, params, batch_stats, copy=True)
        return jax.nn.softmax(model(run.preprocess(images)))

    size = len(run.eval_source)  # evenly spaced, because folders come class by class
    samples = range(0, size, max(1, size // NUM_SAMPLES))[:NUM_SAMPLES]
    batch = next(iter(run.eval_batches(Subset(run.eval_source, samples))))
    # Of all processes; the first one's rows, which it has the images of, come first.
    probabilities = multihost_utils.process_allgather(
        predict(params, batch_stats, run.put(batch)["image"]), tiled=True
    )
    if jax.process_index() > 0:
        return
    count = min(NUM_SAMPLES, int(batch["mask"].sum()))
    curves = plot_curves(workdir)
    plot_predictions(
        batch["image"][:count],
        batch["label"][:count],
        np.asarray(probabilities)[:count],
        run.train_source.class_names,
        workdir / "predictions.png",
    )
    logger.info("See %s and predictions.png beside it.", curves)
