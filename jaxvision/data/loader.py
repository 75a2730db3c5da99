"""How records become examples."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxvision.data.decode import Decode
from jaxvision.data.source import CorruptImageError, DataError, Records
from jaxvision.data.target import Target
from jaxvision.data.types import Transform

_REPLACEMENT_TRIES = 10
# Decoding a 32 x 32 image costs more than all else that is done with it, so small ones are kept.
_SMALL_IMAGE_BYTES = 64 * 64 * 3
_CACHE_BYTES = 2**30


class Loader:
    """Makes the example of one record, in whatever thread or process it is called."""

    def __init__(
        self,
        source: Records,
        transform: Transform,
        target: Target,
        decode: Decode,
        later_transforms: Sequence[Transform] = (),
    ):
        self._source = source
        self._transforms = (transform, *later_transforms)
        self._target = target
        self._decode = decode
        self._cache: dict[int, Any] = {}
        self._cached_bytes = 0

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cache": {}, "_cached_bytes": 0}  # not sent to workers

    def for_training(self, index: int, stage: int, rng: np.random.Generator) -> dict[str, Any]:
        """Returns the augmented example; all of another record where this one is corrupt.

        Args:
          index: Index of the record.
          stage: Stage of the run, which selects the transform.
          rng: Random generator of this example.
        """
        for candidate in _candidates(index, len(self._source)):
            try:  # a photo is decoded by its transform
                record = self._read(candidate)
                example = self._example(candidate, record, rng, self._transforms[stage])
            except CorruptImageError:
                continue
            return example | _marks(index, corrupt=candidate != index)
        raise DataError(
            f"{self._source.describe(index)} is corrupt, and so are all {_REPLACEMENT_TRIES}"
            " records tried in its place; check the whole data set."
        )

    def for_evaluation(self, position: int) -> dict[str, Any]:
        """Returns the example; a masked black image where it is corrupt or past the end."""
        if position >= len(self._source):
            return self._blank | _marks(-1, mask=False)
        try:
            record = self._read(position)
        except CorruptImageError:
            return self._blank | _marks(position, mask=False, corrupt=True)
        return self._example(position, record, None, self._transforms[0]) | _marks(position)

    @functools.cached_property
    def _blank(self) -> dict[str, Any]:
        """Black and no target, of the size that the transform gives."""
        for candidate in _candidates(0, len(self._source)):
            try:
                record = self._read(candidate)
            except CorruptImageError:
                continue
            key, array = _input(record, None, self._transforms[0])
            return {key: np.zeros_like(array)} | self._target.blank()
        raise DataError(
            f"{self._source.describe(0)} is corrupt, and so are {_REPLACEMENT_TRIES} other records;"
            " check the whole data set."
        )

    def _example(
        self, index: int, record: Any, rng: np.random.Generator | None, transform: Transform
    ) -> dict[str, Any]:
        key, array = _input(record, rng, transform)  # draws before the target does
        return {key: array} | self._target(index, record, rng)

    def _read(self, index: int) -> Any:
        """Returns the record, its image decoded."""
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        record = self._source[index]
        image = record.get("image")
        if image is None or isinstance(image, np.ndarray):
            return record
        image = self._decode(image)
        record = {**record, "image": image}
        if image.nbytes <= _SMALL_IMAGE_BYTES and self._cached_bytes < _CACHE_BYTES:
            self._cache[index] = record
            self._cached_bytes += image.nbytes
        return record


def _input(
    record: Any, rng: np.random.Generator | None, transform: Transform
) -> tuple[str, np.ndarray]:
    if "features" in record:
        return "features", record["features"]
    return "image", transform(record["image"], rng)


def _candidates(index: int, num_records: int) -> Iterator[int]:
    """Yields the record itself, then those to try in its place: a function of its index alone."""
    yield index
    yield from np.random.default_rng(index).integers(num_records, size=_REPLACEMENT_TRIES).tolist()


def _marks(index: int, *, mask: bool = True, corrupt: bool = False) -> dict[str, Any]:
    return {"mask": np.bool_(mask), "index": np.int64(index), "corrupt": np.bool_(corrupt)}
