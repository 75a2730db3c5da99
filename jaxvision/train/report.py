"""The pictures that a finished run leaves in its folder."""

import logging
import pathlib

import jax

from jaxvision.errors import InputError
from jaxvision.files import output_path
from jaxvision.plots.curves import plot_curves
from jaxvision.terminal import waiting
from jaxvision.train.run import Run
from jaxvision.train.state import TrainState
from jaxvision.train.trackers import Trackers

logger = logging.getLogger(__name__)


def write_report(run: Run, state: TrainState, workdir: str | pathlib.Path) -> None:
    """Writes `curves.png`, and the picture that the task draws of the newest or averaged weights.

    The trackers of the run get them too.

    Args:
      run: Run that has ended.
      state: State of the run after its last step.
      workdir: Folder of the run.
    """
    workdir = output_path(workdir)
    *_, weights = run.weights_of(state).values()  # the averaged ones where there are any
    with waiting("Drawing the pictures"):
        picture = run.task.draw(run, weights, workdir)
    if jax.process_index() > 0:
        return
    curves = plot_curves(workdir)
    pictures = [curves, *([workdir / picture] if picture else [])]
    step = int(state.step)
    try:
        with Trackers(workdir, run.options, resume_step=step) as trackers:
            trackers.pictures(step, pictures)
    except InputError as error:  # the run is good all the same
        logger.error("The trackers get no pictures: %s", error)
    logger.info("See %s%s.", curves, f" and {picture} beside it" if picture else "")
