"""ImageNet-ReaL: the sets of right labels of ImageNet's validation images."""

import json
import os
import re

import numpy as np

from jaxvision.data.source import DataError, Records

_WANTED = "real.json of ImageNet-ReaL, a list with a list of class indices for each image"
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\b")


def read_real_labels(path: str, source: Records, *, num_classes: int) -> list[frozenset[int]]:
    """Returns the right labels of every record of a source; an empty set: of none.

    The list of the file is in the order of the original names ILSVRC2012_val_00000001 and so on, so
    a record must have kept that name; its place in the source says nothing.

    Args:
      path: Path of real.json; `~` is expanded.
      source: Source of the validation images, all or some.
      num_classes: Number of classes of the model.

    Raises:
      DataError: if the file cannot be read, is not such a list, has a label outside the classes, or
        has no entry for an image.

    Source: Beyer et al. 2020, Are we done with ImageNet?
    """
    entries = _read(path, num_classes)
    labels = []
    for index in range(len(source)):
        name = source.describe(index)
        match = _NUMBER.search(name)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(entries):
            raise DataError(
                f"{path} has labels of {len(entries)} images named ILSVRC2012_val_00000001 and so"
                f" on, but the evaluation split has {name}; evaluate on ImageNet's validation split"
                " with its original names, or leave --config.eval.real_labels empty."
            )
        labels.append(entries[number - 1])
    return labels


def real_correct(
    guesses: np.ndarray, records: np.ndarray, labels: list[frozenset[int]]
) -> np.ndarray:
    """Returns whether each guess is among the right labels; images without any are left out.

    Args:
      guesses: Predicted class indices.
      records: Indices of the records that the guesses are of.
      labels: Right labels of all records, see `read_real_labels`.
    """
    pairs = zip(guesses.tolist(), records.tolist(), strict=True)
    return np.array([guess in labels[record] for guess, record in pairs if labels[record]], bool)


def _read(path: str, num_classes: int) -> list[frozenset[int]]:
    try:
        with open(os.path.expanduser(path), encoding="utf-8-sig") as file:
            content = json.load(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); expected {_WANTED}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); expected {_WANTED}.") from error
    if not isinstance(content, list) or not content:
        raise DataError(f"{path} holds no list; expected {_WANTED}.")
    for number, entry in enumerate(content, start=1):
        known = isinstance(entry, list) and all(
            type(label) is int and 0 <= label < num_classes for label in entry
        )
        if not known:
            raise DataError(
                f"{path} has {entry!r} as entry {number}, but a list of class indices in"
                f" 0..{num_classes - 1} was expected: {_WANTED}."
            )
    return [frozenset(entry) for entry in content]
