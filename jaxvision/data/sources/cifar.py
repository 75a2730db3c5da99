"""The `cifar10` and `cifar100` sources: the python files of the data set's own page."""

import contextlib
import importlib
import io
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from jaxvision.data.source import DataError, Example, Source, missing_data

_MAX_FILE_BYTES = 512 * 2**20
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

# All that a pickle of plain numpy arrays may name; `numpy.core` is what numpy 1 wrote.
_ALLOWED = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("_codecs", "encode"),
    *((m, f) for m in ("numpy.core.multiarray", "numpy._core.multiarray")
      for f in ("_reconstruct", "scalar")),
    *((m, "_frombuffer") for m in ("numpy.core.numeric", "numpy._core.numeric")),
}  # fmt: skip


class CifarSource(Source):
    """CIFAR-10 or CIFAR-100, all images of a split in memory.

    Args:
      name: Name of the data set: cifar10 | cifar100 (its 100 fine labels).
      split: Name of the split: train | test.
      path: Path of the `.tar.gz` itself, the folder it unpacks to, or the folder that holds either.

    Raises:
      DataError: if a file is missing, is not what it should be, or holds a pickle that names
        anything but numpy arrays.

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
        with _open_files(path, archive, folder, needed=(meta, *splits[split])) as read:
            names = read(meta)[names_key]
            self.class_names = tuple(str(name, "utf-8") for name in names)
            for file in splits[split]:
                batch = read(file)
                images.append(_check_images(batch.get(b"data"), file))
                labels.append(np.array(batch.get(label_key, ()), np.int32))
                if labels[-1].shape != (len(images[-1]),):
                    raise DataError(
                        f"{file} has {len(images[-1])} images, but {labels[-1].size} labels."
                    )
        self._images = np.concatenate(images)
        self._labels = np.concatenate(labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": self._images[index], "label": int(self._labels[index])}

    def describe(self, index: int) -> str:
        """Returns the record's number in the split."""
        return f"{self._name} image {index}"


@contextlib.contextmanager
def _open_files(
    path: str, archive: str, folder: str, *, needed: tuple[str, ...]
) -> Iterator[Callable[[str], dict]]:
    """Yields a function from a file's name to its unpickled dictionary."""
    root = os.path.expanduser(path)
    for place in (root, os.path.join(root, folder)):
        if path and all(os.path.isfile(os.path.join(place, file)) for file in needed):
            yield lambda file, place=place: _load(_read(os.path.join(place, file)), file)
            return
    for place in (root, os.path.join(root, archive)):
        if path and os.path.isfile(place):
            try:
                with tarfile.open(place, "r:*") as tar:
                    yield lambda file, tar=tar, place=place: _load(
                        _read_member(tar, f"{folder}/{file}", place), file
                    )
            except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
                raise DataError(
                    f"{place} is not a readable archive ({error}); copy it again."
                ) from error
            return
    raise missing_data(
        f"{archive} or its files {', '.join(needed)}",
        where=path,
        prepare="get the python version from https://www.cs.toronto.edu/~kriz/cifar.html",
    )


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _read_member(tar: tarfile.TarFile, name: str, path: str) -> bytes:
    try:
        member = tar.getmember(name)
    except KeyError as error:
        raise DataError(
            f"{path} has no file {name}; it is not the python version of CIFAR."
        ) from error
    file = tar.extractfile(member)  # a file object: nothing is written to disk
    if file is None or member.size > _MAX_FILE_BYTES:
        raise DataError(f"{name} in {path} is not a file of CIFAR ({member.size:,} bytes).")
    return file.read()


class _ArrayUnpickler(pickle.Unpickler):
    """Loads plain containers and numpy arrays; a pickle could name any function otherwise."""

    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not an array")
        return getattr(importlib.import_module(module.replace("numpy.core", "numpy._core")), name)


def _load(data: bytes, file: str) -> dict:
    try:
        content = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # broken pickles raise nearly anything
        raise DataError(f"{file} is refused or broken: {error}; get the original file.") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{file} holds a {type(content).__name__}, but CIFAR files hold a dictionary."
        )
    return content


def _check_images(data: object, file: str) -> np.ndarray:
    """Returns [n, 32, 32, 3] from the file's planar [n, 3072]."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        raise DataError(
            f"{file} has no uint8 array [n, 3072] under b'data'; get the original file."
        )
    return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
