"""Reads what `torch.save` wrote, without torch and without running anything that is in the file.

Such a file is a zip: `data.pkl` describes objects whose numbers lie in `data/0`, `data/1`, ...
Before PyTorch 1.6 it was a row of pickles, and behind them the numbers.
"""

import mmap
import pathlib
import zipfile
from typing import Any

import numpy as np

from jaxvision.errors import shorten
from jaxvision.interop.torch_pickle import Meanings, Storage, Storages
from jaxvision.plain_pickle import PickleError, read_next_pickle, read_pickle

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the format before 1.6
_PROTOCOL = 1001
_CHUNK = 2**20  # bytes that are copied at once
_HEADER = 2**12  # bytes of the first three pickles, which have a hundred


def read_zip(path: pathlib.Path) -> Any:
    """Returns the object that was saved by PyTorch 1.6 or newer, its tensors as `Tensor`.

    Args:
      path: Path of the file, a zip.

    Raises:
      PickleError: if the file is not as torch writes it.
    """
    size = path.stat().st_size
    archive = zipfile.ZipFile(path)  # closed when nothing refers to its numbers any more
    _check_archive(archive, size)
    root = _root(archive)
    meanings = Meanings(size, _Zipped(archive, root, size))
    program = archive.read(f"{root}data.pkl")
    return read_pickle(program, meanings.names, meanings.load_persistent, inert=True)


def _check_archive(archive: zipfile.ZipFile, size_bytes: int) -> None:
    infos = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise PickleError("its parts are compressed, which torch.save never does")
    if sum(info.file_size for info in infos) > size_bytes:
        raise PickleError("its parts are larger than the file")


def _root(archive: zipfile.ZipFile) -> str:
    """Returns the folder in which everything lies."""
    roots = [name.removesuffix("data.pkl") for name in archive.namelist() if is_index(name)]
    if len(roots) != 1:
        raise PickleError(f"it has {len(roots)} files data.pkl instead of one")
    order = f"{roots[0]}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise PickleError("it was written on a big-endian machine")
    return roots[0]


def is_index(name: str) -> bool:
    """Returns whether a file in a zip is the pickle of one that `torch.save` wrote."""
    return name.count("/") == 1 and name.endswith("/data.pkl")


class _Zipped(Storages):
    """The numbers in a zip."""

    def __init__(self, archive: zipfile.ZipFile, root: str, size_bytes: int):
        super().__init__(size_bytes)
        self._archive, self._root = archive, root

    def read_bytes(self, key: str) -> np.ndarray:
        name = f"{self._root}data/{key}"
        if name not in self._archive.NameToInfo:
            raise PickleError(f"it has no file data/{shorten(key)}")
        values = np.empty(self._archive.NameToInfo[name].file_size, np.uint8)
        place = 0
        with self._archive.open(name) as file:
            while chunk := file.read(_CHUNK):  # to the end, where the checksum is compared
                values[place : place + len(chunk)] = np.frombuffer(chunk, np.uint8)
                place += len(chunk)
        return values


# --- before PyTorch 1.6 -------------------------------------------------------------------------


def read_legacy(path: pathlib.Path) -> Any:
    """Returns the object that was saved by PyTorch before 1.6, its tensors as `Tensor`.

    Args:
      path: Path of the file, which begins with a pickle of MAGIC.

    Raises:
      PickleError: if the file is not as torch wrote it.
    """
    size = path.stat().st_size
    storages = _InARow(path, size)
    meanings = Meanings(size, storages)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start, header = 0, data[:_HEADER]
        for wanted in (MAGIC, _PROTOCOL, None):
            found, start = read_next_pickle(header, start, {}, inert=True)
            if wanted is not None and found != wanted:
                raise PickleError(f"it does not begin with {MAGIC:#x} and version {_PROTOCOL}")
        # The third tells the writer's order of bytes, but the numbers are little-endian anyhow.
        saved, start = read_next_pickle(
            data, start, meanings.names, storages.listen(meanings), inert=True
        )
        keys, start = read_next_pickle(data, start, {}, inert=True)
    storages.find(keys, start)
    return saved


class _InARow(Storages):
    """Numbers that lie one storage behind another, each after its count."""

    def __init__(self, path: pathlib.Path, size_bytes: int):
        super().__init__(size_bytes)
        self._path, self._size = path, size_bytes
        self._widths: dict[str, int] = {}  # bytes of a number
        self._places: dict[str, tuple[int, int]] = {}  # first byte, and how many

    def listen(self, meanings: Meanings) -> Any:
        """Returns the function of persistent ids, of which the numbers' widths are kept."""

        def load(pid: Any) -> Any:
            storage = meanings.load_persistent(pid)
            if isinstance(storage, Storage):
                self._widths.setdefault(storage.key, storage.dtype.itemsize)
            return storage

        return load

    def find(self, keys: Any, start: int) -> None:
        """Finds the places of all storages.

        Args:
          keys: Keys in the order of their numbers, which can be anything.
          start: Place of the first count.
        """
        if not isinstance(keys, list):
            raise PickleError("it has no list of its data")
        with self._path.open("rb") as file:
            for key in keys:
                key = key.decode("latin1") if isinstance(key, bytes) else key
                if not isinstance(key, str) or key not in self._widths:
                    raise PickleError("it has data that no tensor uses")
                file.seek(start)
                length = int.from_bytes(file.read(8), "little") * self._widths[key]
                self._places[key] = start + 8, length
                start += 8 + length
                if start > self._size:
                    raise PickleError("it is cut short")

    def read_bytes(self, key: str) -> np.ndarray:
        if key not in self._places:
            raise PickleError(f"it has no data {shorten(key)}")
        start, length = self._places[key]
        return np.fromfile(self._path, np.uint8, length, offset=start)
