"""The list of all tasks, and the door to them."""

import inspect
import pathlib
from collections.abc import Callable
from typing import Any

from jaxvision.errors import InputError, check_choice
from jaxvision.options.options import Options
from jaxvision.outside import import_outside, imported_outside, is_address
from jaxvision.tasks.captioning import Captioning
from jaxvision.tasks.classification import Classification
from jaxvision.tasks.image_text import ImageTextContrast
from jaxvision.tasks.masked_autoencoding import MaskedAutoencoding
from jaxvision.tasks.momentum_contrast import MomentumContrast
from jaxvision.tasks.multi_label import MultiLabel
from jaxvision.tasks.self_critical import SelfCritical
from jaxvision.tasks.task import Task
from jaxvision.tasks.teacher import with_teacher
from jaxvision.tasks.unlabelled import Unlabelled

OpenData = Callable[[type[Any]], Any]  # a class of tasks -> the task with its data


def _open_classification(options: Options, open_data: OpenData, training: bool) -> Task:
    task = open_data(Classification)
    return with_teacher(task, options) if options.distill.teacher_weights else task


def _open_captioning(options: Options, open_data: OpenData, training: bool) -> Task:
    task, samples = open_data(Captioning), options.caption.self_critical_samples
    return SelfCritical.of(task, samples) if samples and training else task


def _open_plainly(task: type[Task]) -> Callable[[Options, OpenData, bool], Task]:
    return lambda options, open_data, training: open_data(task)


# A new task of the package is one import and one entry here.
_TASKS = {
    "classification": _open_classification,
    "multi_label": _open_plainly(MultiLabel),
    "captioning": _open_captioning,
    "image_text": _open_plainly(ImageTextContrast),
    "masked_autoencoding": _open_plainly(MaskedAutoencoding),
    "momentum_contrast": _open_plainly(MomentumContrast),
}


def open_task(
    options: Options, workdir: pathlib.Path | None = None, *, training: bool = True
) -> Task:
    """Returns the task of a run, with its data.

    Args:
      options: Options of the run; `options.task` is a name, or `package.module:Class` or
        `path/to/file.py:Class` of a task outside the package.
      workdir: Folder of the run that is resumed or evaluated; None: a new one.
      training: Whether the training records are needed, see `Task.reopen`.

    Raises:
      InputError: if there is no such task, or its data is missing or does not fit.
    """

    def open_data(task: type[Any]) -> Any:
        if workdir is None:
            return task.open(options)
        return task.reopen(options, workdir, training=training)

    if not is_address(options.task):
        check_choice("--config.task", options.task, tuple(_TASKS))
        task = _TASKS[options.task](options, open_data, training)
        if options.eval.features and not isinstance(task, Unlabelled):
            raise InputError(
                "--config.eval.features is for tasks that learn without labels, got "
                f"'{options.task}': leave it out; `jaxvision probe` judges any run."
            )
        return task
    if options.distill.teacher_weights:
        raise InputError(
            "--config.distill.teacher_weights is for --config.task=classification, got "
            f"'{options.task}': leave it out."
        )
    found = import_outside(
        options.task, _is_task, kind="a subclass of Task", example="mytask:MyTask"
    )
    task = open_data(found)
    if not isinstance(task, Task):
        raise InputError(
            f"--config.task={options.task}: its open() must return a jaxvision.tasks.task.Task, "
            f"but returned a {type(task).__name__}."
        )
    return task


def check_stored_task(name: str, *, where: str) -> None:
    """Checks that the task of a run on disk is known without importing anything.

    A folder from elsewhere must not decide which code runs here.

    Args:
      name: Name of the task that the run has stored.
      where: Name of the run, for the message.

    Raises:
      InputError: if it is the address of a task that is not imported.
    """
    if name not in _TASKS and not (is_address(name) and _is_task(imported_outside(name))):
        raise InputError(
            f"{where} is a run of the task {name}, whose code is not imported because a folder "
            f"says so: import {name.rpartition(':')[0]} in Python first."
        )


def _is_task(found: Any) -> bool:
    return inspect.isclass(found) and issubclass(found, Task) and not inspect.isabstract(found)
