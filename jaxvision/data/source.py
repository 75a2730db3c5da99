"""What every source of examples offers, and the two errors of this folder."""

import abc
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxvision.errors import InputError

RUNS_WITHOUT_DATA = (
    "`jaxvision train --config=quickstart --workdir=runs/demo` runs without any data."
)
HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .jp2 .avif".split()
    + [".heic", ".heif"] * HAS_HEIF
)


def is_hidden(name: str) -> bool:
    """Returns whether a path, or a folder in it, is hidden or a leftover of macOS."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def is_image(name: str) -> bool:
    """Returns whether a path has an image suffix and is not hidden."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_hidden(name)


class DataError(InputError):
    """The data is missing or wrong; the message says what to do."""


class CorruptImageError(DataError):
    """One image cannot be decoded; the pipeline replaces it and counts it."""


class Example(TypedDict):
    """One record: encoded bytes, or uint8 [height, width, 3] RGB, and the class index."""

    image: bytes | np.ndarray
    label: int


class Records(abc.ABC):
    """Random access to records: an image, or its features, and what is known of it.

    Reading is safe from many threads at once, and records can be pickled into worker processes.
    """

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Any: ...

    @abc.abstractmethod
    def describe(self, index: int) -> str:
        """Returns what a log message calls this record: a file name where there is one."""

    def parts(self) -> Mapping[str, str]:
        """Returns a digest of each part of the data, such as a class: of names and sizes.

        A run that resumes compares them. Records that nothing cheap is known of have no parts.
        """
        return {}


class Source(Records):
    """Random access to labelled images; `class_names[label]` is the name of a label."""

    class_names: tuple[str, ...]
    left_out: str = ""  # how many files of each suffix beside the images are none

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Example: ...

    def label(self, index: int) -> int:
        """Returns the label of a record; sources that know it do not read the image."""
        return int(self[index]["label"])

    def key(self, index: int) -> str:
        """Returns the name by which chance sorts a record: where it can, not its number."""
        return os.path.basename(self.describe(index))


class NumberedSource(Source):
    """Records of a data set that have numbers, and some of them the name of a file."""

    _name: str  # of data set and split

    @abc.abstractmethod
    def _file(self, index: int) -> str:
        """Returns the path or name of a record's file; "" where there is none."""

    def describe(self, index: int) -> str:
        """Returns the record's number in the split, and its file name where there is one."""
        return f"{self._name} record {index} {self._file(index)}".rstrip()

    def key(self, index: int) -> str:
        """Returns the record's file name; its number where there is none."""
        return os.path.basename(self._file(index)) or str(index)


class Subset(Source):
    """Some records of another source.

    Args:
      source: Source of all records.
      indices: Indices of records of the source, in the wanted order.
    """

    def __init__(self, source: Source, indices: Sequence[int]):
        self._source, self._indices = source, indices
        self.class_names, self.left_out = source.class_names, source.left_out

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._indices[index]]

    def label(self, index: int) -> int:
        """Returns the label of a record."""
        return self._source.label(self._indices[index])

    def key(self, index: int) -> str:
        """Returns the key of the record in the whole."""
        return self._source.key(self._indices[index])

    def describe(self, index: int) -> str:
        """Returns the name of the record in the whole."""
        return self._source.describe(self._indices[index])

    def parts(self) -> Mapping[str, str]:
        """Returns the digests of the whole."""
        return self._source.parts()


class Relabelled(Source):
    """Another source whose labels are places in another list of classes.

    Args:
      source: Source of the records.
      class_names: Class names by label, among them all of the source.
    """

    def __init__(self, source: Source, class_names: Sequence[str]):
        self._source, self.class_names = source, tuple(class_names)
        self.left_out = source.left_out
        place = {name: label for label, name in enumerate(self.class_names)}
        self._labels = [place[name] for name in source.class_names]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example, known = self._source[index], len(self._labels)
        if not 0 <= example["label"] < known:
            raise wrong_label(self.describe(index), example["label"], known)
        return {"image": example["image"], "label": self._labels[example["label"]]}

    def label(self, index: int) -> int:
        """Returns the label of a record in the list of classes."""
        return self._labels[self._source.label(index)]

    def key(self, index: int) -> str:
        """Returns the source's own key of the record."""
        return self._source.key(index)

    def describe(self, index: int) -> str:
        """Returns the source's own name of the record."""
        return self._source.describe(index)

    def parts(self) -> Mapping[str, str]:
        """Returns the digests of the source."""
        return self._source.parts()


def wrong_label(record: str, label: int, num_classes: int) -> DataError:
    """Returns the error of a record whose label is out of range."""
    return DataError(
        f"{record} has the label {label}, but there are {num_classes} classes, so labels are 0 to"
        f" {num_classes - 1}; correct the data."
    )


def missing_data(wanted: str, *, where: str, prepare: str) -> DataError:
    """Returns the error of every source whose data is not there."""
    place = where or "config.data.path, which is empty"
    if where and not os.path.exists(os.path.expanduser(where)):
        place = f"{where}, which does not exist"
    return DataError(f"{wanted} not found in {place}; {prepare}. {RUNS_WITHOUT_DATA}")
