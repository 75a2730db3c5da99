"""The pictures that a finished run leaves in its folder."""

import logging
import pathlib

import jax

from jaxvision.files import output_path
from jaxvision.plots.curves import plot_curves
from jaxvision.terminal import waiting
from jaxvision.train.run import Run
from jaxvision.train.state import TrainState

logger = logging.getLogger(__name__)


def write_report(run: Run, state: TrainState, workdir: str | pathlib.Path) -> None:
    """Writes `curves.png`, and the picture that the task draws of the newest or averaged weights.

    Args:
      run: Run that has ended.
      state: State of the run after its last step.
      workdir: Folder of the run.
    """
    workdir = output_path(workdir)
    *_, weights = run.weights_of(state).values()  # the averaged ones where there are any
    with waiting("Drawing the pictures"):
        picture = run.task.draw(run, weights, workdir)
    if jax.process_index() == 0:
        beside = f" and {picture} beside it" if picture else ""
        logger.info("See %s%s.", plot_curves(workdir), beside)
