"""Reads what `torch.save` wrote, without torch and without running anything that is in the file.

Such a file is a zip: `data.pkl` describes objects whose numbers lie in `data/0`, `data/1`, ...
Unpickling may call whatever the file names, so only the handful of names that tensors need is
known here, none of which does more than check its arguments and look at the bytes.
"""

import io
import math
import pathlib
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from jaxvision.errors import InputError

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


def read_torch_file(path: pathlib.Path) -> Any:
    """Returns the object that was saved, its tensors as NumPy arrays.

    Args:
      path: Path of a `.pth`, `.pt` or `.bin` file.

    Raises:
      InputError: if the file is damaged, of the format before PyTorch 1.6, or names anything but
        tensors and plain containers.
    """
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"{path} is damaged, or older than PyTorch 1.6, whose files only PyTorch can read: "
            "torch.load it there and torch.save it again."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, path.stat().st_size)
            root = _root(archive)
            # Pickle's Python implementation: the one in C can be made to fill the memory by a few
            # bytes that claim a huge memo.
            return _Unpickler(archive, root).load()
    except _Refused as refusal:
        raise InputError(
            f"{path} cannot be read safely: {refusal}. Save only the state_dict: "
            "torch.save(model.state_dict(), path)."
        ) from refusal
    except Exception as error:  # a hostile pickle can raise anything
        raise InputError(f"{path} is damaged: {type(error).__name__}: {error}.") from error


class _Refused(Exception):
    """What the file wants and does not get."""


def _check_archive(archive: zipfile.ZipFile, size_bytes: int) -> None:
    infos = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise _Refused("its parts are compressed, which torch.save never does")
    if sum(info.file_size for info in infos) > size_bytes:
        raise _Refused("its parts are larger than the file")


def _root(archive: zipfile.ZipFile) -> str:
    """Returns the folder in which everything lies."""
    roots = [name.removesuffix("data.pkl") for name in archive.namelist() if _is_index(name)]
    if len(roots) != 1:
        raise _Refused(f"it has {len(roots)} files data.pkl instead of one")
    order = f"{roots[0]}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise _Refused("it was written on a big-endian machine")
    return roots[0]


def _is_index(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")


class _Unpickler(pickle._Unpickler):
    """Knows tensors, parameters and ordered dicts, and no other name."""

    stack: list[Any]  # of the little machine whose program a pickle is
    dispatch: dict[int, Any] = dict(pickle._Unpickler.dispatch)

    def _load_build(self) -> None:
        """Leaves out attributes of objects: of use to nobody but a file that means harm."""
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = _load_build

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self._archive = archive
        self._root = root
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = f"{module_name}.{global_name}"
        if name == "collections.OrderedDict":
            return dict
        if name == "torch._utils._rebuild_tensor_v2":
            return _rebuild_tensor
        if name == "torch._utils._rebuild_parameter":
            return _rebuild_parameter
        if module_name == "torch" and global_name in _STORAGES:
            return _STORAGES[global_name]
        raise _Refused(f"it names {name}, which is not part of a tensor")

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Returns the numbers of a storage; several tensors may share it, so it is read once."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise _Refused("it has data that is not a tensor's")
        if key not in self._storages:
            values = self._archive.read(f"{self._root}data/{key}")
            self._storages[key] = np.frombuffer(values, np.uint8)
        values = self._storages[key]
        if not _is_count(count) or count * dtype.itemsize != len(values):
            raise _Refused(f"data/{key} does not have the {count} numbers that it should")
        return values.view(dtype)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> np.ndarray:
    """Returns a copy of the part of the storage that a tensor sees.

    `as_strided` looks wherever it is told to, so nothing may lie outside.
    """
    del rest  # requires_grad, hooks
    numbers = (offset, *shape, *strides)
    fits = isinstance(storage, np.ndarray) and storage.ndim == 1 and len(shape) == len(strides)
    if not fits or not all(map(_is_count, numbers)):
        raise _Refused("it has a tensor that is none")
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if last >= storage.size or math.prod(shape) > storage.size:
        raise _Refused("it has a tensor that reaches beyond its data")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    del rest  # requires_grad, hooks
    return data


def _is_count(number: Any) -> bool:
    return type(number) is int and number >= 0
