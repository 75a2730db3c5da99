"""The `array_record` source: many examples in few files, for disks that dislike small ones."""

import json
import operator
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxvision.data.fingerprint import file_sizes
from jaxvision.data.source import CorruptImageError, DataError, Example, Source
from jaxvision.data.sources.shards import find_shards
from jaxvision.files import written_aside

# A record is the length of a JSON header (uint32, little endian), the header, and the image.
# The first record of a file has {"format": ..., "class_names": [...]} and no image; each other one
# has {"label": 3, "name": "cat/1.jpg"}, and "shape": [height, width, 3] if the image is raw RGB
# instead of an encoded file.
_LENGTH = struct.Struct("<I")
_FORMAT = "jaxvision-1"
_PREPARE = (
    "expected <path>/<split> (a glob such as 'train*.array_record' may match several files),"
    " <path>/<split>.array_record or <path>/<split>-<number>*.array_record, written by "
    "`jaxvision prepare`"
)


class ArrayRecordSource(Source):
    """Examples in ArrayRecord files that `write_array_record` made.

    Args:
      path: Folder of the files.
      split: File name, glob or braces, see `find_shards`.

    Raises:
      DataError: if no file is there, or a file is not of this format.
    """

    def __init__(self, path: str, split: str):
        import grain  # which nothing needs that reads no such files

        self._paths = find_shards(path, split, (".array_record",), prepare=_PREPARE)
        self._files: list[Any] = []
        counts = []
        for file in self._paths:
            try:
                records: Any = grain.sources.ArrayRecordDataSource(file)
                header, _ = _unpack(records[0])
            except Exception as error:  # the reader has no exception class of its own
                raise DataError(f"{file} is not a readable ArrayRecord file: {error}.") from error
            names = header.get("class_names")
            if header.get("format") != _FORMAT or not isinstance(names, list):
                raise DataError(
                    f"The first record of {file} is not of this project's format; {_PREPARE}."
                )
            class_names = tuple(map(str, names))
            if self._files and class_names != self.class_names:
                raise DataError(
                    f"{file} has other classes than {self._paths[0]}; write both again."
                )
            self.class_names = class_names
            self._files.append(records)
            counts.append(len(records) - 1)
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, index: int) -> tuple[int, int]:
        """Returns the number of an example's file, and that of its record in the file."""
        file = int(np.searchsorted(self._ends, index, side="right"))
        return file, index - (int(self._ends[file - 1]) if file else 0) + 1

    def __getitem__(self, index: int) -> Example:
        """Returns one example.

        Raises:
          CorruptImageError: if its record is damaged.
        """
        file, record = self._find(index)
        try:
            header, image = _unpack(self._files[file][record])
            pixels = image
            if "shape" in header:
                height, width = header["shape"][:2]
                pixels = np.frombuffer(image, np.uint8).reshape(height, width, 3)
            return {"image": pixels, "label": operator.index(header["label"])}
        except Exception as error:  # the reader has no exception class of its own
            raise CorruptImageError(f"its record is damaged ({error})") from error

    def describe(self, index: int) -> str:
        """Returns the file and the name that the example had; its number where it is damaged."""
        file, record = self._find(index)
        try:
            name = _unpack(self._files[file][record])[0]["name"]
        except Exception:  # noqa: BLE001 - as above
            name = f"record {record}"
        return f"{self._paths[file]}/{name}"

    def parts(self) -> dict[str, str]:
        """Returns the size of each file."""
        sizes = file_sizes(self._paths)
        return {os.path.basename(p): str(n) for p, n in zip(self._paths, sizes, strict=True)}


def write_array_record(source: Source, path: str) -> None:
    """Writes every example of a source to one ArrayRecord file.

    The file appears under its name only when it is complete.

    Args:
      source: Source to write; the encoded bytes are copied as they are.
      path: Path of the new file, ending in `.array_record`.

    Raises:
      DataError: if the path has another ending.
    """
    if not path.endswith(".array_record"):
        raise DataError(f"path must end in .array_record, but is {path!r}.")
    with written_aside(path) as unfinished:
        shard = ArrayRecordShard(str(unfinished), source.class_names)
        for index in range(len(source)):
            example = source[index]
            shard.write(example["image"], example["label"], source.describe(index))
        shard.close()


class ArrayRecordShard:
    """An ArrayRecord file that is being written.

    Args:
      path: Path of the new file.
      class_names: Class names by label.
    """

    def __init__(self, path: str, class_names: Sequence[str]):
        from array_record.python.array_record_module import ArrayRecordWriter

        # One record per compressed group: random access then reads nothing that it does not need.
        self._writer = ArrayRecordWriter(path, "group_size:1")
        self._writer.write(_pack({"format": _FORMAT, "class_names": list(class_names)}, b""))

    def write(self, image: bytes | np.ndarray, label: int, name: str) -> None:
        """Adds one record; bytes of an encoded image are copied as they are."""
        header: dict = {"label": label, "name": name}
        if isinstance(image, np.ndarray):
            header["shape"] = list(image.shape)
            image = image.tobytes()
        self._writer.write(_pack(header, image))

    def close(self) -> None:
        """Completes the file."""
        self._writer.close()


def _pack(header: dict, image: bytes) -> bytes:
    text = json.dumps(header).encode()
    return _LENGTH.pack(len(text)) + text + image


def _unpack(record: bytes) -> tuple[dict, bytes]:
    (length,) = _LENGTH.unpack_from(record)
    start = _LENGTH.size
    header = json.loads(record[start : start + length])
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header, record[start + length :]
