"""The `tar` source: shards as webdataset writes them, read at any place."""

import io
import json
import os
import re
import tarfile
from typing import Any

import cv2
import numpy as np

from jaxvision.data.decode import decode_image
from jaxvision.data.file_tree import report_left_out
from jaxvision.data.fingerprint import file_sizes
from jaxvision.data.source import DataError, Example, Source, missing_data
from jaxvision.data.sources.label_classes import label_classes
from jaxvision.data.sources.shards import find_shards
from jaxvision.data.tar_reader import TarReader
from jaxvision.errors import shorten

_IMAGES = ("jpg", "jpeg", "png", "webp")
_LABELS = ("cls", "json")  # where a sample has both, the first says the label
_PREPARE = (
    "expected tar files as webdataset writes them at <path>/<split> (a glob or braces such as"
    " 'train-{000..015}.tar' for several), <path>/<split>.tar, <path>/<split>-<number>.tar or"
    " <path>/<split>/*.tar, with the members <key>.jpg (.jpeg .png .webp) and <key>.cls or"
    " <key>.json"
)
# The name up to the first dot, its folder with it, is a sample's key; the rest says what it is.
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.S)
_META = re.compile(r"__[^/]*__($|/)")  # what webdataset leaves out
_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"WEBP": "webp"}  # in the first bytes
_MAX_LABEL_BYTES = 2**20


class TarSource(Source):
    """Images with labels in uncompressed tar files, at any place of which it can read.

    A sample is the members whose names are the same up to the first dot of the file name: an image
    `.jpg`, `.jpeg`, `.png` or `.webp`, and its label, the text of a `.cls` or a `.json`, which is
    the label or an object with it as "label". Classes are those of `label_classes`, with a
    `classes.txt` beside the shards. Other members are left out.

    Args:
      path: Folder of the shards.
      split: File name, glob or braces, see `find_shards`.
      class_names: Class names by label, of the training split or of a run; None: those found here.

    Raises:
      DataError: if there is no shard, one is compressed or damaged, or a sample has no image, two
        of them, or no label.
    """

    def __init__(self, path: str, split: str, *, class_names: tuple[str, ...] | None = None):
        shards = find_shards(path, split, (".tar", ".tar.*", ".tgz"), prepare=_PREPARE)
        self._readers: list[TarReader] = []
        numbers, members, labels, names = [], [], [], []
        left_out = []
        for number, shard in enumerate(shards):
            reader = TarReader(shard)
            self._readers.append(reader)
            samples, others = _samples(reader)
            left_out += others
            for key, parts in samples.items():
                image, label = _parts(key, parts, reader)
                numbers.append(number)
                members.append(image)
                labels.append(_label(reader, label))
                names.append(label)
        self.left_out = report_left_out(f"The split {split!r} in {path}", left_out)
        if not members:
            raise missing_data(f"Images of the split {split!r}", where=path, prepare=_PREPARE)
        self._numbers = np.array(numbers, np.int32)
        self._members = np.array(members, np.int64)

        def where(index: int) -> str:
            return self._readers[numbers[index]].describe(names[index])

        self.class_names, self._labels = label_classes(labels, where, shards[0], class_names)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        image = self._readers[self._numbers[index]].read(int(self._members[index]))
        return {"image": image, "label": int(self._labels[index])}

    def label(self, index: int) -> int:
        """Returns the label of an image, without reading it."""
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        """Returns the shard and the name of the image in it."""
        return self._readers[self._numbers[index]].describe(int(self._members[index]))

    def parts(self) -> dict[str, str]:
        """Returns the size of each shard."""
        paths = [reader.path for reader in self._readers]
        sizes = file_sizes(paths)
        return {os.path.basename(p): str(n) for p, n in zip(paths, sizes, strict=True)}


class TarShard:
    """A tar file that is being written, as webdataset reads it.

    Args:
      path: Path of the new file.
      first: Number of its first sample among those of all shards, which is its key.
    """

    def __init__(self, path: str, *, first: int = 0):
        self._archive = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)
        self._count = first

    def write(self, image: bytes | np.ndarray, label: int, name: str) -> None:
        """Adds one sample: image, label and name, an object of JSON.

        Pixels become a PNG, and bytes that are no JPEG, PNG or WebP, too.
        """
        suffix = next((s for magic, s in _MAGIC.items() if magic in bytes(image[:12])), None)
        if isinstance(image, np.ndarray) or suffix is None:
            pixels = image if isinstance(image, np.ndarray) else decode_image(image)
            _, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
            image, suffix = encoded.tobytes(), "png"
        more = json.dumps({"label": label, "name": name})
        for part, data in (("cls", str(label).encode()), ("json", more.encode()), (suffix, image)):
            info = tarfile.TarInfo(f"{self._count:08}.{part}")
            info.size = len(data)
            self._archive.addfile(info, io.BytesIO(data))
        self._count += 1

    def close(self) -> None:
        """Completes the file."""
        self._archive.close()


def _samples(reader: TarReader) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Returns the members of each sample that has an image or a label, and names of the others."""
    samples: dict[str, dict[str, int]] = {}
    others = []
    for member, name in enumerate(reader.names):
        match = _NAME.fullmatch(name)
        part = match[2].lower() if match else ""
        if match is None or part not in _IMAGES + _LABELS or _META.match(name):
            others.append(name)
            continue
        parts = samples.setdefault(match[1], {})
        if part in parts:
            raise DataError(
                f"{reader.path} holds {shorten(name)!r} twice; give each sample a key of its own."
            )
        parts[part] = member
    return samples, others


def _parts(key: str, parts: dict[str, int], reader: TarReader) -> tuple[int, int]:
    """Returns the members that are the image and the label of a sample."""
    images = [part for part in _IMAGES if part in parts]
    labels = [part for part in _LABELS if part in parts]
    where = f"{reader.path}/{shorten(key)}"
    if len(images) != 1:
        several = f"two images, {key}.{images[0]} and .{images[1]}" if images else ""
        raise DataError(
            f"{where} has {several or 'a label, but no image (.jpg .jpeg .png .webp)'}; write the"
            " shard with one image of each key."
        )
    if not labels:
        raise DataError(f"{where}.{images[0]} has no label {key}.cls or .json beside it; write it.")
    return parts[images[0]], parts[labels[0]]


def _label(reader: TarReader, member: int) -> str:
    """Returns the text of a label."""
    where = reader.describe(member)
    data = reader.read(member, limit=_MAX_LABEL_BYTES)
    try:
        text = data.decode().strip()
        if reader.names[member].lower().endswith(".json"):
            text = _of_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where} holds no label: expected a whole number or a name, in .json alone or as the"
            f' "label" of an object, but it is {shorten(data[:80])}.'
        ) from error
    if not text:
        raise DataError(f"{where} is empty, but should hold a label; write it again.")
    return text


def _of_json(content: Any) -> str:
    if isinstance(content, dict):
        content = content.get("label")
    if not isinstance(content, (int, str)) or isinstance(content, bool):
        raise ValueError("no label")
    return str(content)
