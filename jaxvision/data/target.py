"""What a batch holds beside the images: class indices here, captions in caption_target.py."""

import abc
from typing import Any

import numpy as np

from jaxvision.data.source import Source, wrong_label


class Target(abc.ABC):
    """Makes a record's target in the loader's threads; it is pickled into worker processes."""

    @abc.abstractmethod
    def __call__(self, index: int, record: Any, rng: np.random.Generator | None) -> dict[str, Any]:
        """Returns arrays and numpy scalars without a batch axis.

        Args:
          index: Index of the record, for the text of an error.
          record: Record as the source gives it, except that its image is decoded.
          rng: Random generator of the record, after the transform has drawn; None in evaluation.
        """

    @abc.abstractmethod
    def blank(self) -> dict[str, Any]:
        """Returns the target of a masked example."""


class Labels(Target):
    """The class index.

    Raises:
      DataError: when called, if a label is out of range.
    """

    def __init__(self, source: Source):
        self._source = source

    def __call__(self, index: int, record: Any, rng: np.random.Generator | None) -> dict[str, Any]:
        """Returns `label`, int32."""
        label, num_classes = record["label"], len(self._source.class_names)
        if not 0 <= label < num_classes:
            raise wrong_label(self._source.describe(index), label, num_classes)
        return {"label": np.int32(label)}

    def blank(self) -> dict[str, Any]:
        """Returns class 0."""
        return {"label": np.int32(0)}


class NoLabel(Target):
    """Nothing: the image is all there is to learn from."""

    def __call__(self, index: int, record: Any, rng: np.random.Generator | None) -> dict[str, Any]:
        """Returns nothing."""
        return {}

    def blank(self) -> dict[str, Any]:
        """Returns nothing."""
        return {}


class LabelRow(Target):
    """The label of each class, of a record that has several: 1 there, 0 not, -1 unknown.

    Args:
      num_classes: Number of classes.
    """

    def __init__(self, num_classes: int):
        self._num_classes = num_classes

    def __call__(self, index: int, record: Any, rng: np.random.Generator | None) -> dict[str, Any]:
        """Returns `label`, int32 [classes]."""
        return {"label": np.asarray(record["label"], np.int32)}

    def blank(self) -> dict[str, Any]:
        """Returns unknown labels."""
        return {"label": np.full(self._num_classes, -1, np.int32)}
