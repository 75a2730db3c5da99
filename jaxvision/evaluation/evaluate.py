"""`--mode=eval`: the newest checkpoint of a run, as thoroughly as its task allows."""

import pathlib
from typing import Any

from jaxvision.evaluation.classifier import evaluate_classifier
from jaxvision.evaluation.label_sets import evaluate_label_sets
from jaxvision.tasks.classification import Classification
from jaxvision.tasks.multi_label import MultiLabel
from jaxvision.train.loop import evaluate_run
from jaxvision.train.run import Run
from jaxvision.train.workdir import check_evaluates_the_run


def evaluate_fully(run: Run, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Evaluates the newest checkpoint of a run: classifiers with tables and pictures.

    Args:
      run: Run of `make_run`.
      workdir: Folder of the run.

    Returns:
      What `evaluate_classifier` returns; of another task its metrics, {"eval/loss": ..., ...}.

    Raises:
      InputError: if the folder holds no checkpoint, or one of another model.
    """
    check_evaluates_the_run(workdir, run.options)
    if isinstance(run.task, Classification):
        return evaluate_classifier(run, run.task, workdir)
    if isinstance(run.task, MultiLabel):
        return evaluate_label_sets(run, run.task, workdir)
    return evaluate_run(run, workdir)
