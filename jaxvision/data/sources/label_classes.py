"""Labels that are texts, names of classes or whole numbers, as classes in an order."""

import os
import re
from collections.abc import Callable, Sequence

import numpy as np

from jaxvision.data.classes import one_line, read_class_names, some_names
from jaxvision.data.source import DataError

CLASSES = "classes.txt"
_INTEGER = re.compile("-?[0-9]{1,18}")  # longer ones are names


def label_classes(
    texts: Sequence[str],
    where: Callable[[int], str],
    beside: str,
    class_names: tuple[str, ...] | None,
) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the names of the classes, and the label of each record, int32.

    Classes are sorted by their names, or by their values where all are whole numbers, which must
    have no gap then. A file `classes.txt` lists them instead, one name a line in the order of the
    outputs; labels are these names, or their places from 0 on.

    Args:
      texts: Label of each record.
      where: Function that returns what a message calls the label of a record.
      beside: Path of the file that has the labels, in whose folder `classes.txt` may lie.
      class_names: Class names by label, of the training split or of a run; None: those found here.

    Raises:
      DataError: for a label that is none; the message says where it is.
    """
    texts = [one_line(text) for text in texts]
    first = {text: index for index, text in reversed(list(enumerate(texts)))}
    labels = {text: where(index) for text, index in reversed(first.items())}
    listed = read_class_names(os.path.join(os.path.dirname(beside), CLASSES))
    name_of = _names(labels, listed, beside)
    names = tuple(class_names or listed or _in_order(labels, os.path.basename(beside)))
    place = {name: label for label, name in enumerate(names)}
    for label, its_place in labels.items():
        if name_of[label] not in place:
            raise DataError(
                f"{its_place}: the label {label!r} is not among the {len(place)} classes of the"
                f" run, {some_names(place)}; correct it."
            )
    return names, np.array([place[name_of[text]] for text in texts], np.int32)


def _names(labels: dict[str, str], listed: tuple[str, ...], beside: str) -> dict[str, str]:
    """Returns the class name that each label stands for.

    Args:
      labels: Labels, each with a place that has it.
      listed: Class names of `classes.txt`, which labels may be places in.
      beside: Path of the file that has the labels.
    """
    if len(set(listed)) < len(listed):
        raise DataError(f"{CLASSES} beside {beside} has a name twice; give each class its own.")
    if not listed or labels.keys() <= set(listed):
        return {label: label for label in labels}
    places = [str(place) for place in range(len(listed))]
    for label, its_place in labels.items():
        if label not in places:
            raise DataError(
                f"{its_place}: the label {label!r} is neither a name in {CLASSES} beside"
                f" {os.path.basename(beside)} nor the place of one, 0 to {len(listed) - 1}; correct"
                " it."
            )
    return dict(zip(places, listed, strict=True))


def _in_order(labels: dict[str, str], beside: str) -> list[str]:
    """Returns the classes of labels: names sorted as text, whole numbers by their value."""
    if not all(map(_INTEGER.fullmatch, labels)):
        return sorted(labels)
    order = sorted(labels, key=int)
    first = min(1, int(order[0])) if order else 0
    for value, label in enumerate(order, start=max(0, first)):
        if int(label) != value:  # a mistake, which would be a class of its own
            raise DataError(
                f"{labels[label]}: the label is {label!r} where {value} was expected, as labels"
                " that are whole numbers must be 0, 1, 2 ... or 1, 2, 3 ... without a gap; correct"
                f" it, or write the names of the classes into {CLASSES} beside {beside}, one a"
                " line."
            )
    return order
