"""The `cifar10` and `cifar100` sources: the python files of the data set's own page."""

import gzip
import hashlib
import io
import itertools
import os
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxvision.data.source import DataError, Example, Source, missing_data
from jaxvision.data.sources.array_pickle import read_arrays
from jaxvision.errors import shorten
from jaxvision.plain_pickle import PickleError

_MAX_BYTES = 512 * 2**20  # of a file, and of an unpacked archive, which are 186 MB as published
_MAX_MEMBERS = 1000  # of an archive, which has nine
# Name: archive, its folder, files of each split, meta file, key of the labels, of the class names.
_LAYOUT = {
    "cifar10": (
        "cifar-10-python.tar.gz",
        "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        "batches.meta",
        b"labels",
        b"label_names",
    ),
    "cifar100": (
        "cifar-100-python.tar.gz",
        "cifar-100-python",
        {"train": ("train",), "test": ("test",)},
        "meta",
        b"fine_labels",
        b"fine_label_names",
    ),
}


class CifarSource(Source):
    """CIFAR-10 or CIFAR-100, all images of a split in memory.

    Args:
      name: Name of the data set: cifar10 | cifar100 (its 100 fine labels).
      split: Name of the split: train | test.
      path: Path of the `.tar.gz` itself, the folder it unpacks to, or the folder that holds either.

    Raises:
      DataError: if a file is missing, is not what it should be, or holds a pickle of anything but
        plain data and numpy arrays.

    Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html.
    """

    def __init__(self, name: str, split: str, *, path: str):
        archive, folder, splits, meta, label_key, names_key = _LAYOUT[name]
        if split not in splits:
            raise DataError(
                f"The splits of {name} are train and test, but {split!r} was asked for."
            )
        self._name = f"{name} {split}"
        images, labels = [], []
        read = _open_files(path, archive, folder, needed=(meta, *splits[split]))
        self.class_names = _check_names(_load(read(meta), meta).get(names_key), names_key, meta)
        for file in splits[split]:
            batch = _load(read(file), file)
            images.append(_check_images(batch.get(b"data"), file))
            found = _check_labels(batch.get(label_key), len(self.class_names), label_key, file)
            if len(found) != len(images[-1]):
                raise DataError(f"{file} has {len(images[-1])} images, but {len(found)} labels.")
            labels.append(found)
        self._images = np.concatenate(images)
        self._labels = np.concatenate(labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": self._images[index], "label": int(self._labels[index])}

    def label(self, index: int) -> int:
        """Returns the label of an image."""
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        """Returns the record's number in the split."""
        return f"{self._name} image {index}"

    def parts(self) -> dict[str, str]:
        """Returns a digest of all images and one of all labels."""
        arrays = {"images": self._images, "labels": self._labels}
        return {
            name: hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=8).hexdigest()
            for name, array in arrays.items()
        }


def _open_files(
    path: str, archive: str, folder: str, *, needed: tuple[str, ...]
) -> Callable[[str], bytes]:
    """Returns a function from a file's name to its bytes."""
    root = os.path.expanduser(path)
    for place in (root, os.path.join(root, folder)):
        if path and all(os.path.isfile(os.path.join(place, file)) for file in needed):
            return lambda file, place=place: _read(os.path.join(place, file))
    for place in (root, os.path.join(root, archive)):
        if path and os.path.isfile(place):
            return _open_archive(place, folder)
    raise missing_data(
        f"{archive} or its files {', '.join(needed)}",
        where=path,
        prepare="get the python version from https://www.cs.toronto.edu/~kriz/cifar.html",
    )


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return _read_bounded(file, path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error


def _open_archive(path: str, folder: str) -> Callable[[str], bytes]:
    """Unpacks an archive in memory; returns a function from a name in its folder to the bytes."""
    try:
        with open(path, "rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_packed else open(path, "rb") as file:
            content = io.BytesIO(_read_bounded(file, path))
        tar = tarfile.open(fileobj=content, mode="r:")  # it would unpack once more
        members = {member.name: member for member in itertools.islice(tar, _MAX_MEMBERS)}
    except DataError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        raise DataError(
            f"{path} is not a readable archive ({shorten(error)}); copy it again."
        ) from error

    def read(file: str) -> bytes:
        member = members.get(f"{folder}/{file}")
        if member is None:
            raise DataError(
                f"{path} has no file {folder}/{file}; it is not the python version of CIFAR."
            )
        try:
            # A sparse file can be larger than its archive, and a link can lead to itself.
            content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is not None:
                return content.read()
        except tarfile.TarError:
            pass
        raise DataError(f"{folder}/{file} in {path} is no whole file; get the original archive.")

    return read


def _read_bounded(file: Any, path: str) -> bytes:
    data = io.BytesIO()
    while chunk := file.read(2**20):
        data.write(chunk)
        if data.tell() > _MAX_BYTES:
            raise DataError(f"{path} holds more than {_MAX_BYTES:,} bytes, so it is not of CIFAR.")
    return data.getvalue()


def _load(data: bytes, file: str) -> dict[Any, Any]:
    try:
        content = read_arrays(data)
    except PickleError as error:
        raise DataError(f"{file} is refused or broken: {error}; get the original file.") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{file} holds a {type(content).__name__}, but CIFAR files hold a dictionary."
        )
    return content


def _check_names(names: Any, key: bytes, file: str) -> tuple[str, ...]:
    try:
        if isinstance(names, list) and names:
            return tuple(str(name, "utf-8") for name in names)
    except (TypeError, UnicodeDecodeError):
        pass
    raise DataError(f"{file} has no list of class names under {key}; get the original file.")


def _check_images(data: Any, file: str) -> np.ndarray:
    """Returns [n, 32, 32, 3] from the file's planar [n, 3072]."""
    is_array = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.size > 0
    if not is_array or data.shape[1:] != (3072,):
        raise DataError(
            f"{file} has no uint8 array [n, 3072] under b'data'; get the original file."
        )
    return np.ascontiguousarray(data.reshape(len(data), 3, 32, 32).transpose(0, 2, 3, 1))


def _check_labels(labels: Any, num_classes: int, key: bytes, file: str) -> np.ndarray:
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        labels = labels.tolist()
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{file} has no list of labels under {key}; get the original file.")
    wrong = [label for label in labels if not 0 <= label < num_classes]
    if wrong:
        raise DataError(
            f"{file} has the label {shorten(wrong[0])}, but there are {num_classes} classes; get"
            " the original file."
        )
    return np.array(labels, np.int32)
