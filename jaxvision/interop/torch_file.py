"""Reads what `torch.save` wrote, without torch and without running anything that is in the file.

Such a file is a zip: `data.pkl` describes objects whose numbers lie in `data/0`, `data/1`, ...
Unpickling may call whatever the file names, so only the handful of names that tensors need is
known here, none of which does more than check its arguments and look at the bytes.
"""

import math
import pathlib
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from jaxvision.errors import InputError, shorten
from jaxvision.plain_pickle import PickleError, read_pickle

_STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


# Of a file's bytes, those of its tensors: a few may be views of the same numbers, not thousands.
_MAX_VIEWS = 8
_SMALL_BYTES = 2**24
_MAX_RANK = 64  # numpy's


def read_torch_file(path: pathlib.Path) -> Any:
    """Returns the object that was saved, its tensors as NumPy arrays.

    Tensors that share their numbers in the file share them here.

    Args:
      path: Path of a `.pth` or `.pt` file.

    Raises:
      InputError: if the file is damaged, of the format before PyTorch 1.6, or names anything but
        tensors and plain containers.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise InputError(
                f"{path} is damaged, or older than PyTorch 1.6, whose files only PyTorch can read: "
                "torch.load it there and torch.save it again."
            )
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, size)
            root = _root(archive)
            tensors = _Tensors(archive, root, _SMALL_BYTES + _MAX_VIEWS * size)
            program = archive.read(f"{root}data.pkl")
            return read_pickle(program, tensors.names(), tensors.load_storage)
    except InputError:
        raise
    except PickleError as error:
        raise InputError(
            f"{path} cannot be read safely: {error}. Save only the state_dict: "
            "torch.save(model.state_dict(), path)."
        ) from error
    except Exception as error:  # a damaged archive can raise anything
        raise InputError(f"{path} is damaged: {type(error).__name__}: {shorten(error)}.") from error


def _check_archive(archive: zipfile.ZipFile, size_bytes: int) -> None:
    infos = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise PickleError("its parts are compressed, which torch.save never does")
    if sum(info.file_size for info in infos) > size_bytes:
        raise PickleError("its parts are larger than the file")


def _root(archive: zipfile.ZipFile) -> str:
    """Returns the folder in which everything lies."""
    roots = [name.removesuffix("data.pkl") for name in archive.namelist() if _is_index(name)]
    if len(roots) != 1:
        raise PickleError(f"it has {len(roots)} files data.pkl instead of one")
    order = f"{roots[0]}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise PickleError("it was written on a big-endian machine")
    return roots[0]


def _is_index(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")


class _Tensors:
    """What the pickle of a file may name; no function does more than check and look at bytes."""

    def __init__(self, archive: zipfile.ZipFile, root: str, limit: int):
        self._archive = archive
        self._root = root
        self._storages: dict[str, np.ndarray] = {}
        self._left = limit  # bytes that tensors may still have

    def names(self) -> dict[str, Any]:
        return {
            "collections.OrderedDict": lambda: {},
            "torch._utils._rebuild_tensor_v2": self._rebuild,
            "torch._utils._rebuild_parameter": lambda data, *rest: data,
            **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
        }

    def load_storage(self, pid: Any) -> np.ndarray:
        """Returns the numbers of a storage; several tensors may share it, so it is read once."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise PickleError("it has data that is not a tensor's")
        if key not in self._storages:
            name = f"{self._root}data/{key}"
            if name not in self._archive.NameToInfo:
                raise PickleError(f"it has no file data/{shorten(key)}")
            self._storages[key] = np.frombuffer(bytearray(self._archive.read(name)), np.uint8)
        values = self._storages[key]
        if not _is_count(count) or count * dtype.itemsize != len(values):
            raise PickleError(f"data/{key} does not have as many numbers as it should")
        return values.view(dtype)

    def _rebuild(
        self, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any
    ) -> np.ndarray:
        """Returns the part of the storage that a tensor sees, in C order.

        Nothing may lie outside.
        """
        del rest  # requires_grad, hooks
        fits = isinstance(storage, np.ndarray) and isinstance(shape, tuple)
        fits = fits and isinstance(strides, tuple) and len(shape) == len(strides) <= _MAX_RANK
        if not fits or not all(map(_is_count, (offset, *shape, *strides))):
            raise PickleError("it has a tensor that is none")
        if 0 in shape:
            return np.empty(shape, storage.dtype)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if last >= storage.size or math.prod(shape) > storage.size:
            raise PickleError("it has a tensor that reaches beyond its data")
        self._left -= math.prod(shape) * storage.itemsize
        if self._left < 0:
            raise PickleError(f"its tensors have more than {_MAX_VIEWS} times the file's bytes")
        steps = [stride * storage.itemsize for stride in strides]
        view = np.ndarray(shape, storage.dtype, storage, offset * storage.itemsize, steps)
        return np.asarray(view, order="C")


def _is_count(number: Any) -> bool:
    return type(number) is int and number >= 0
