"""Data decoded and made smaller once, so that every run decodes less."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import pathlib
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, Protocol

import cv2
import numpy as np

from jaxvision.data.augment.crops import Resize
from jaxvision.data.classes import some_names
from jaxvision.data.decode import MAX_PIXELS, decode_image, is_turned
from jaxvision.data.fingerprint import fingerprint, fingerprint_difference
from jaxvision.data.source import CorruptImageError, DataError, Source, wrong_label
from jaxvision.data.sources.array_record import ArrayRecordShard
from jaxvision.data.sources.label_classes import CLASSES
from jaxvision.data.sources.tar import TarShard
from jaxvision.errors import InputError
from jaxvision.files import read_json, write_json, write_text, written_aside
from jaxvision.terminal import counted

FORMS = ("array_record", "tar")
_AHEAD = 4  # records read ahead, of each worker


class Shard(Protocol):
    """A file of records that is being written."""

    def write(self, image: bytes | np.ndarray, label: int, name: str) -> None:
        """Adds one record."""
        ...

    def close(self) -> None:
        """Completes the file."""
        ...


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How data is prepared.

    Attributes:
      short_side: Pixels of the short side after the resize; smaller images stay as they are.
      quality: Quality of the JPEG that a resized image becomes, 1..100.
      shards: Number of files of a split; no more than it has records.
      form: Form of the files: array_record | tar.
      exif_orientation: Whether photos are turned by their EXIF data, as config.data has it.
      max_pixels: Largest number of pixels of an image, as config.data has it.
    """

    short_side: int = 256
    quality: int = 90
    shards: int = 16
    form: str = "array_record"
    exif_orientation: bool = False
    max_pixels: int = MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What became of a split.

    Attributes:
      records: Number of records that were written.
      corrupt: Name of each corrupt image, and what is wrong with it; none of them was written.
      paths: Paths of the files.
    """

    records: int
    corrupt: Sequence[tuple[str, str]]
    paths: Sequence[pathlib.Path]


def prepare_split(
    source: Source, out: pathlib.Path, split: str, options: Preparation, *, workers: int
) -> Prepared:
    """Writes a split to `<out>/<split>-00000-of-00016.array_record` and so on.

    The files depend on the source and the options alone, not on the number of workers. A file
    appears under its name only when it is whole, and `<out>/<split>.json` then says what is in it;
    the same call goes on behind the files that are there.

    Args:
      source: Source of the split.
      out: Folder of the files; made where it is missing.
      split: Name of the split in the new folder.
      options: Options of the preparation.
      workers: Number of threads that decode.

    Raises:
      InputError: if the folder holds this split with other options, or of other data.
      DataError: if no record can be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    count = max(min(options.shards, len(source)), 1)
    paths = [out / f"{split}-{n:05}-of-{count:05}.{options.form}" for n in range(count)]
    ranges = [range(len(source) * n // count, len(source) * (n + 1) // count) for n in range(count)]
    status = out / f"{split}.json"
    known: dict[str, Any] = _resume(status, source, options)
    shards = known["shards"]
    for stale in out.glob(f".{split}-*"):  # of a call that was killed
        stale.unlink()
    _write_classes(out, source, options)
    todo = [n for n in range(count) if paths[n].name not in shards or not paths[n].is_file()]
    records = [index for n in todo for index in ranges[n]]
    results = _in_order(functools.partial(_prepared, source, options), records, workers)
    with contextlib.closing(results):
        shown = counted(results, len(records), f"Preparing {split}", rate=True)
        for number in todo:
            corrupt = []
            with written_aside(paths[number]) as unfinished:
                shard: Shard
                if options.form == "tar":
                    shard = TarShard(str(unfinished), first=ranges[number].start)
                else:
                    shard = ArrayRecordShard(str(unfinished), source.class_names)
                for image, label, name in itertools.islice(shown, len(ranges[number])):
                    if isinstance(image, CorruptImageError):
                        corrupt.append((name, str(image)))
                    else:
                        shard.write(image, label, name)
                shard.close()
            shards[paths[number].name] = {
                "records": len(ranges[number]) - len(corrupt),
                "corrupt": corrupt,
            }
            write_json(status, known)
        next(shown, None)
    found = [shards[path.name] for path in paths]
    total = sum(shard["records"] for shard in found)
    bad = [(name, why) for shard in found for name, why in shard["corrupt"]]
    if not total:
        raise DataError(
            f"All {len(source)} images of the split {split} are corrupt, such as {bad[0][0]}:"
            f" {bad[0][1]}."
        )
    return Prepared(total, bad, paths)


def _resume(status: pathlib.Path, source: Source, options: Preparation) -> dict[str, Any]:
    """Returns what is known of the files that are there: nothing, at the first call."""
    new = {
        "options": dataclasses.asdict(options),
        "class_names": list(source.class_names),
        "data": fingerprint(source),
        "shards": {},
    }
    if not status.is_file():
        return new
    try:
        old = read_json(status)
        old = {key: old[key] for key in new}
        difference = fingerprint_difference(new["data"], old["data"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{status} is not what this command writes ({error}); give another folder."
        ) from error
    changed = {k for k, v in new["options"].items() if old["options"].get(k) != v}
    if changed:
        raise InputError(
            f"{status.parent} holds the split {status.stem}, prepared with other values of"
            f" {some_names(changed)}; give the same, or another folder."
        )
    if difference or new["class_names"] != old["class_names"]:
        raise InputError(
            f"{status.parent} holds the split {status.stem} of other data: what is to be prepared"
            f" {difference or 'has other classes'}; give another folder."
        )
    return old


def _write_classes(out: pathlib.Path, source: Source, options: Preparation) -> None:
    """Writes the classes beside tars, whose labels are numbers."""
    text = "".join(f"{name}\n" for name in source.class_names)
    path = out / CLASSES
    if options.form == "tar" and not (path.is_file() and path.read_text("utf-8") == text):
        if path.exists():
            raise InputError(f"{path} holds other classes; give another folder.")
        write_text(path, text)


def _prepared(source: Source, options: Preparation, index: int) -> tuple[Any, int, str]:
    """Returns image, label and key of a record; of a corrupt image the error and the name."""
    try:
        example = source[index]
        image = smaller(example["image"], options)
    except CorruptImageError as error:
        return error, -1, source.describe(index)
    label = int(example["label"])
    if not 0 <= label < len(source.class_names):
        raise wrong_label(source.describe(index), label, len(source.class_names))
    return image, label, source.key(index)


def smaller(image: bytes | np.ndarray, options: Preparation) -> bytes | np.ndarray:
    """Returns an image whose short side is at most that of the options; small ones unchanged.

    Training sees the same pixels in an unchanged file. One that its EXIF data would turn is no
    such file: whether it is turned is decided here, for all images alike.

    Args:
      image: Bytes of an encoded image file, or pixels.
      options: Options of the preparation.

    Raises:
      CorruptImageError: if it cannot be decoded.
    """
    pixels = image
    if isinstance(image, bytes):
        pixels = decode_image(
            image, max_pixels=options.max_pixels, exif_orientation=options.exif_orientation
        )
    assert isinstance(pixels, np.ndarray)
    if min(pixels.shape[:2]) > options.short_side:
        pixels = Resize(options.short_side)(pixels)
    elif not isinstance(image, bytes) or not is_turned(image):
        return image
    quality = (cv2.IMWRITE_JPEG_QUALITY, options.quality)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)
    return encoded.tobytes()


def _in_order(function: Any, items: Sequence[int], workers: int) -> Generator[Any]:
    """Yields the function's value of each item in their order, computed by threads ahead of it."""
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    begun: deque[concurrent.futures.Future] = deque()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > _AHEAD * workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
