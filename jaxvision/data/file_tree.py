"""What lies below a folder, seen alike by all who look for images there."""

import collections
import logging
import os
from collections.abc import Iterable

from jaxvision.data.source import DataError, is_hidden, is_image

_log = logging.getLogger(__name__)


def list_files(path: str) -> tuple[list[str], list[str]]:
    """Returns the files and the folders below a folder, as names relative to it, with slashes.

    Linked folders are followed, except into a folder that they lie in themselves.

    Args:
      path: Path of the folder.

    Raises:
      DataError: if a folder cannot be read.
    """
    files, folders = [], []
    todo = [("", frozenset({_identity(os.stat(path))}))]
    while todo:
        prefix, above = todo.pop()
        try:
            entries = sorted(os.scandir(os.path.join(path, prefix)), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                f"The folder {os.path.join(path, prefix)} cannot be read ({error.strerror}); allow"
                " it, or remove the folder."
            ) from error
        for entry in entries:
            name = prefix + entry.name
            if not entry.is_dir():
                files.append(name)
            elif (identity := _identity(entry.stat())) not in above:
                folders.append(name)
                todo.append((f"{name}/", above | {identity}))
    return files, folders


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def suffix_counts(names: Iterable[str]) -> str:
    """Returns how many files have each suffix: "24 .heic, 1 .txt", the most frequent first."""
    suffixes = (os.path.splitext(name)[1].lower() or "without a suffix" for name in names)
    counts = collections.Counter(suffixes).most_common()
    return ", ".join(f"{count} {suffix}" for suffix, count in counts)


def report_left_out(where: str, names: Iterable[str]) -> str:
    """Logs how many files have no image suffix and are not hidden either; returns these counts.

    Args:
      where: Path of the folder or zip, for the message.
      names: Names of all files in it.
    """
    seen = [name for name in names if not is_hidden(name)]
    others = [name for name in seen if not is_image(name)]
    if others:
        _log.warning(
            "%s: left out, as their suffix is not that of an image: %d of %d files (%s).",
            where,
            len(others),
            len(seen),
            suffix_counts(others),
        )
    return suffix_counts(others)
