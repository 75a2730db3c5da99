import contextlib
import os
import stat
import struct
import weakref
import zipfile
import zlib

import numpy as np

from jaxvision.data.source import CorruptImageError, DataError

MAX_MEMBER_BYTES = 256 * 2**20
_LOCAL_HEADER = struct.Struct(
    "<4s22xHH"
)  # signature, length of the name, length of the extra field
_ENCRYPTED, _UTF8 = 0x1, 0x800  # bits of a member's flags


class ZipReader:
    """Random access to the members of a zip file, from any thread and any process.

    Only the central directory is read at first. A member is read with `os.pread`, which has no file
    position that threads could fight over, and nothing is ever written to disk.

    Attributes:
      names: Names of the files, as `unzip` writes them.
      folders: Names of the folders that are members themselves, without the slash at the end.

    Args:
      path: Path of the zip file.

    Raises:
      DataError: for a broken zip, a member beyond the file's end, a name that leaves the archive, a
        link, an encrypted member, a compression other than stored and deflate, or a member of more
        than 256 MiB.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except Exception as error:  # a damaged file can raise anything
            raise DataError(
                f"{path} is not a readable zip file ({str(error) or type(error).__name__}); copy it"
                " again."
            ) from error
        archive_size = os.path.getsize(path)
        for member in members:
            member.filename = _name_of(member)
            _check_member(member, path, archive_size)
        self.folders = [_clean(member.filename) for member in members if member.is_dir()]
        members = [member for member in members if not member.is_dir()]
        self.names = [_clean(member.filename) for member in members]
        self._offsets = np.array([m.header_offset for m in members], np.int64)
        self._packed_sizes = np.array([m.compress_size for m in members], np.int64)
        self._sizes = np.array([m.file_size for m in members], np.int64)
        self._checksums = np.array([m.CRC for m in members], np.uint32)
        self._deflated = np.array([m.compress_type == zipfile.ZIP_DEFLATED for m in members], bool)
        self._open()

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_file"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()

    def read(self, index: int) -> bytes:
        """Returns the bytes of one member.

        Raises:
          CorruptImageError: if the member is cut short, or its size or checksum is not the one that
            the archive gives.
        """
        header = os.pread(self._file, _LOCAL_HEADER.size, int(self._offsets[index]))
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise CorruptImageError(f"{self.describe(index)} has no local header in the zip file")
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = int(self._offsets[index]) + _LOCAL_HEADER.size + name_length + extra_length
        data = os.pread(self._file, int(self._packed_sizes[index]), start)
        size = int(self._sizes[index])
        if self._deflated[index]:
            try:  # one byte more than announced is enough to notice a bomb
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
            except zlib.error as error:
                raise CorruptImageError(f"{self.describe(index)}: {error}") from error
        if len(data) != size or zlib.crc32(data) != self._checksums[index]:
            raise CorruptImageError(
                f"{self.describe(index)} differs from its checksum in the zip file"
            )
        return data

    def size(self, index: int) -> int:
        """Returns the bytes of one member, unpacked."""
        return int(self._sizes[index])

    def sizes(self) -> list[int]:
        """Returns the bytes of each member, unpacked."""
        return self._sizes.tolist()

    def describe(self, index: int) -> str:
        """Returns the zip file and the member's name."""
        return f"{self.path}/{self.names[index]}"


def _name_of(member: zipfile.ZipInfo) -> str:
    """Returns the name as `unzip` reads it: in UTF-8 without a flag, too, and with slashes."""
    name = member.filename
    if not member.flag_bits & _UTF8:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    from_dos = member.create_system == 0 and "/" not in name
    return name.replace("\\", "/") if from_dos else name


def _clean(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _check_member(member: zipfile.ZipInfo, path: str, archive_size: int) -> None:
    name = member.filename
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
        raise DataError(
            f"{path} holds {name!r}, which points out of the archive; do not use this file."
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(
            f"{name!r} in {path} is a link instead of a file; pack the files that links point to."
        )
    if member.flag_bits & _ENCRYPTED:
        raise DataError(
            f"{name!r} in {path} is encrypted; pack the files again without a password."
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{name!r} in {path} has compression method {member.compress_type}, but only stored and"
            " deflate are read; pack the files again, best with `zip -0`."
        )
    size = max(member.file_size, member.compress_size)
    if size > MAX_MEMBER_BYTES:
        raise DataError(
            f"{name!r} in {path} holds {size:,} bytes, more than the {MAX_MEMBER_BYTES:,} that an"
            " image may have; take it out of the archive."
        )
    if not 0 <= member.header_offset < archive_size:
        raise DataError(
            f"{name!r} should begin at byte {member.header_offset:,} of {path}, which has"
            f" {archive_size:,}; copy it again."
        )
