"""What a run would read, looked at once before it: sizes, corrupt images, duplicates."""

import concurrent.futures
import dataclasses
import functools
import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import PIL.Image

from jaxvision.data.decode import Decode
from jaxvision.data.source import CorruptImageError, Source
from jaxvision.terminal import counted

_NEAR_BITS = 3  # of the 64 of a perceptual hash, in which near duplicates may differ
_BANDS = _NEAR_BITS + 1  # parts of a hash; hashes so near have at least one in common
_PART = 4_096  # records that are handed to the threads at once


@dataclasses.dataclass(frozen=True)
class Looked:
    """What is seen of one record.

    Attributes:
      name: Name of the record.
      label: Class index; -1 where it cannot be read.
      height: Height in pixels; 0 where it is corrupt.
      width: Width in pixels, likewise.
      content: Digest of the bytes; b"" where they cannot be read.
      look: Perceptual hash of 64 bits; 0: of no use, as the image is flat or corrupt.
      why: What is wrong with it; "": nothing.
    """

    name: str
    label: int
    height: int = 0
    width: int = 0
    content: bytes = b""
    look: int = 0
    why: str = ""


def survey(source: Source, decode: Decode, *, what: str, workers: int) -> list[Looked]:
    """Returns what is seen of each record, in their order.

    Args:
      source: Source of the records; every one is read and decoded.
      decode: Function from the bytes of an image to its pixels.
      what: Description of the split, for the line of progress.
      workers: Number of threads.
    """
    look = functools.partial(_look, source, decode)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        parts = (
            range(first, min(first + _PART, len(source))) for first in range(0, len(source), _PART)
        )
        found = (seen for part in parts for seen in pool.map(look, part))
        return list(counted(found, len(source), f"Looking at {what}", rate=True))


def _look(source: Source, decode: Decode, index: int) -> Looked:
    name, label, content = source.describe(index), -1, b""
    try:
        example = source[index]
        label, image = int(example["label"]), example["image"]
        data = image if isinstance(image, bytes) else np.ascontiguousarray(image).tobytes()
        content = hashlib.blake2b(data, digest_size=16).digest()
        pixels = decode(image) if isinstance(image, bytes) else image
    except CorruptImageError as error:
        return Looked(name, label, content=content, why=str(error))
    height, width = pixels.shape[:2]
    return Looked(name, label, height, width, content, difference_hash(pixels))


def difference_hash(pixels: np.ndarray) -> int:
    """Returns which of 8 x 8 places of an image are brighter than their right neighbours, as bits.

    Another size, JPEG's losses and brightness change few of them.

    Args:
      pixels: RGB pixels.

    Source: Krawetz 2013, Kind of like that; the imagehash package's `dhash`.
    """
    grey = PIL.Image.fromarray(pixels).convert("L")
    small = np.asarray(grey.resize((9, 8), PIL.Image.Resampling.LANCZOS))
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes())


def duplicates(
    train: Sequence[Looked], evaluation: Sequence[Looked]
) -> tuple[list[tuple[Looked, Looked]], list[tuple[Looked, Looked]]]:
    """Returns pairs of two splits that are the same file, and those that only look alike.

    Of each record of the evaluation at most one pair is given.

    Args:
      train: Records of the training split.
      evaluation: Records of the evaluation split.
    """
    same = {seen.content: seen for seen in reversed(train) if seen.content}
    bands: dict[tuple[int, int], dict[int, Looked]] = defaultdict(dict)
    for seen in reversed(train):
        for band in _bands(seen.look) if seen.look else ():
            bands[band][seen.look] = seen
    exact, near = [], []
    for seen in evaluation:
        if seen.content in same:
            exact.append((same[seen.content], seen))
        elif seen.look:
            alike = {hash: each for band in _bands(seen.look) for hash, each in bands[band].items()}
            distance, best = min(
                (((look ^ seen.look).bit_count(), look) for look in alike), default=(64, 0)
            )
            if distance <= _NEAR_BITS:
                near.append((alike[best], seen))
    return exact, near


def _bands(look: int) -> list[tuple[int, int]]:
    width = 64 // _BANDS
    return [(n, look >> n * width & (1 << width) - 1) for n in range(_BANDS)]
