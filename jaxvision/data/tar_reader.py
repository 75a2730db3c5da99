"""Random access to the members of a tar file, which has no list of them itself."""

import os
from dataclasses import dataclass

import numpy as np

from jaxvision.data.source import CorruptImageError, DataError
from jaxvision.data.zip_reader import MAX_MEMBER_BYTES
from jaxvision.errors import reason, shorten

_BLOCK = 512
_MAX_NAMES = 2**20  # bytes of a header that only says more of the next member
_AGAIN = "it is damaged or cut short; copy it again"
# First bytes of a compressed file, and the command that unpacks it.
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd --rm",
    b"\x04\x22\x4d\x18": "unlz4 --rm",
}
_KINDS = {
    b"1": "a link instead of a file; pack the files that links point to",
    b"2": "a link instead of a file; pack the files that links point to",
    b"S": "sparse; pack the files again without `tar --sparse`",
}


@dataclass
class _Named:
    """What a header says of the member behind it."""

    path: bytes | None = None
    size: int | None = None


class TarReader:
    """Random access to the files in an uncompressed tar, from any thread and any process.

    The headers are read once, one after the other; a file is then read from its place alone, and
    nothing is ever written to disk. No descriptor stays open: data sets have thousands of shards.

    Attributes:
      names: Names of the files, in their order.

    Args:
      path: Path of the tar file.

    Raises:
      DataError: for a compressed, damaged or cut tar, a name that leaves the archive, a link, a
        device, a sparse file, or a file of more than 256 MiB.
    """

    def __init__(self, path: str):
        self.path = path
        self.names: list[str] = []
        offsets, sizes = [], []
        for name, offset, size in _members(path):
            self.names.append(name)
            offsets.append(offset)
            sizes.append(size)
        self._offsets, self._sizes = np.array(offsets, np.int64), np.array(sizes, np.int64)

    def read(self, index: int, *, limit: int = MAX_MEMBER_BYTES) -> bytes:
        """Returns the bytes of one file.

        Args:
          index: Place of the file in `names`.
          limit: Largest number of bytes that are read.

        Raises:
          DataError: if the tar cannot be read any more.
          CorruptImageError: if it has become shorter.
        """
        size = min(int(self._sizes[index]), limit)
        try:
            file = os.open(self.path, os.O_RDONLY)
            try:
                data = os.pread(file, size, int(self._offsets[index]))
            finally:
                os.close(file)
        except OSError as error:
            raise DataError(
                f"{self.describe(index)} was listed but cannot be read ({reason(error)}); check "
                "the disk."
            ) from error
        if len(data) != size:
            raise CorruptImageError(f"{self.describe(index)} is cut short in the tar file")
        return data

    def describe(self, index: int) -> str:
        """Returns the tar file and the file's name in it."""
        return f"{self.path}/{self.names[index]}"


def _members(path: str) -> list[tuple[str, int, int]]:
    """Returns name, first byte and size of each file in a tar."""
    found = []
    try:
        with open(path, "rb", buffering=0) as file:
            _check_kind(file.read(8), path)
            end = os.fstat(file.fileno()).st_size
            place, named = 0, _Named()
            while any(header := os.pread(file.fileno(), _BLOCK, place)):
                size = _check_header(header, place, path)
                kind, start = header[156:157], place + _BLOCK
                if kind in b"xgLK":  # of the next member, of all, its long name, its long target
                    if size > min(_MAX_NAMES, end - start):
                        raise _damaged(path, place)
                    _read_names(os.pread(file.fileno(), size, start), kind, named, path, place)
                else:
                    size = size if named.size is None else named.size
                    name = _name_of(header) if named.path is None else named.path
                    if size > end - start:
                        raise _damaged(path, place)
                    named = _Named()
                    text = name.split(b"\0")[0].decode("utf-8", "surrogateescape")
                    if _is_file(text, kind, size, path):
                        found.append((_clean(text), start, size))
                    if kind not in (b"0", b"\0", b"7"):
                        size = 0
                place = start + -(-size // _BLOCK) * _BLOCK
            if len(header) < _BLOCK:  # no block of zeros at the end
                raise _damaged(path, place)
            if any(os.pread(file.fileno(), 128 * _BLOCK, place)):
                raise DataError(
                    f"{path} has more behind its end at byte {place:,}, as `cat` of several tars"
                    " makes it; keep them apart."
                )
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); check the disk.") from error
    return found


def _check_kind(start: bytes, path: str) -> None:
    for magic, command in _COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(
                f"{path} is compressed, so that no image in it can be read before all those in"
                f" front of it; type `{command} {path}` once (images are compressed already)."
            )


def _check_header(header: bytes, place: int, path: str) -> int:
    """Returns the size of a member from its header.

    Raises:
      DataError: if it is damaged.
    """
    if len(header) < _BLOCK:
        raise _damaged(path, place)
    checksum = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    size = _number(header[124:136])
    if size is None or size < 0 or _number(header[148:156]) != checksum:
        raise _damaged(path, place)
    return size


def _number(field: bytes) -> int | None:
    """Returns a number of a header: octal, or in base 256; None: it is none."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:]) if field[0] == 0x80 else None
    try:
        return int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return None


def _name_of(header: bytes) -> bytes:
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    return b"/".join((prefix, name)) if header[257:263] == b"ustar\0" and prefix else name


def _read_names(data: bytes, kind: bytes, named: _Named, path: str, place: int) -> None:
    """Reads what a GNU or pax header says of the next member."""
    if kind == b"L":
        named.path = data
    if kind not in (b"x", b"g"):
        return
    while data and data[0]:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) + 2 < int(length) <= len(data):
            raise _damaged(path, place)
        key, equals, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        data = data[int(length) :]
        if key.startswith(b"GNU.sparse"):
            raise DataError(f"{path} holds a file that is {_KINDS[b'S']}.")
        if not equals or (kind == b"g" and key in (b"path", b"size")):
            raise _damaged(path, place)
        if key == b"path":
            named.path = value
        if key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise _damaged(path, place)
            named.size = int(value)


def _is_file(name: str, kind: bytes, size: int, path: str) -> bool:
    """Returns whether a member is a file, not a folder.

    Raises:
      DataError: if it is something that has no place among images.
    """
    shown = shorten(name)
    if name.startswith("/") or ".." in name.split("/"):
        raise DataError(
            f"{path} holds {shown!r}, which points out of the archive; do not use this file."
        )
    if kind == b"5" or (kind == b"\0" and name.endswith("/")):
        return False
    if kind not in (b"0", b"\0", b"7"):
        what = _KINDS.get(kind, "no file; leave it out")
        raise DataError(f"{shown!r} in {path} is {what}.")
    if size > MAX_MEMBER_BYTES:
        raise DataError(
            f"{shown!r} in {path} holds {size:,} bytes, more than the {MAX_MEMBER_BYTES:,} that an"
            " image may have; take it out of the archive."
        )
    return True


def _clean(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _damaged(path: str, place: int) -> DataError:
    return DataError(f"{path} is no whole tar file, as its byte {place:,} shows: {_AGAIN}.")
