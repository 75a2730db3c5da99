"""The pictures and the page that a finished run leaves in its folder."""

import logging
import pathlib

import jax

from jaxvision.errors import InputError, reason
from jaxvision.files import output_path
from jaxvision.plots.curves import plot_curves
from jaxvision.report.gather import gather
from jaxvision.report.page import PAGE_FILE, write_page
from jaxvision.terminal import waiting
from jaxvision.train.run import Run
from jaxvision.train.state import TrainState
from jaxvision.train.trackers import Trackers

logger = logging.getLogger(__name__)


def write_report(run: Run, state: TrainState, workdir: str | pathlib.Path) -> None:
    """Writes `curves.png`, the picture that the task draws of the weights, and `report.html`.

    The trackers of the run get the pictures, too. The weights are the averaged ones where there are
    any.

    Args:
      run: Run that has ended.
      state: State of the run after its last step.
      workdir: Folder of the run.
    """
    workdir = output_path(workdir)
    *_, weights = run.weights_of(state).values()  # the averaged ones where there are any
    with waiting("Drawing the pictures"):
        picture = run.task.draw(run, weights, workdir)
    page = workdir / PAGE_FILE
    try:
        if run.options.log.report:
            gather(run, state, workdir)
    except (InputError, OSError) as error:  # the run is good all the same
        logger.error("%s lacks what could not be gathered: %s", page.name, reason(error))
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
    beside = [picture] if picture else []
    try:
        if run.options.log.report:
            beside.append(write_page([workdir], page).name)
    except (InputError, OSError) as error:
        logger.error("%s is not written: %s", page.name, reason(error))
    logger.info("See %s%s.", curves, f", {' and '.join(beside)} beside it" if beside else "")
