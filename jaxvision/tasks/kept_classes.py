"""The list of classes in the folder of a run, by which its labels keep their meaning."""

import pathlib
from collections.abc import Sequence

import jax

from jaxvision.data.classes import class_difference, read_class_names
from jaxvision.errors import InputError
from jaxvision.files import write_text
from jaxvision.interop.run_folder import CLASSES_FILE


def check_kept_classes(workdir: pathlib.Path, class_names: Sequence[str]) -> None:
    """Checks that labels mean what they mean to the run; see `Task.check_kept`.

    Args:
      workdir: Folder of the run.
      class_names: Names of the classes of the data, by label; empty: not known.
    """
    kept = read_class_names(workdir / CLASSES_FILE)
    if kept and class_names and kept != tuple(class_names):
        difference = class_difference(class_names, kept)
        raise InputError(
            f"The run in {workdir} has other classes: the data"
            f" {difference or 'has them in another order'}; give the data of that run."
        )


def keep_classes(workdir: pathlib.Path, class_names: Sequence[str], *, resumes: bool) -> None:
    """Writes the names of the classes, one a line; see `Task.keep`.

    Args:
      workdir: Folder of the run.
      class_names: Names of the classes of the data, by label.
      resumes: Whether the folder holds a run that is resumed.
    """
    if resumes:
        check_kept_classes(workdir, class_names)
    if jax.process_index() == 0:
        write_text(workdir / CLASSES_FILE, "".join(f"{name}\n" for name in class_names))
