"""What every source of captions offers, and the list of captions that most are made from."""

import abc
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np

from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.data.fingerprint import digest
from jaxvision.data.source import DataError, Records
from jaxvision.errors import shorten

_log = logging.getLogger(__name__)

MAX_IMAGE_ID = 2**31 - 1  # int32 in a batch
MAX_CAPTION = 10_000  # characters; the tokenizer of `score` takes a second for twenty thousand


def check_captions(where: str, name: object, captions: Iterable[str]) -> None:
    """Raises DataError if a caption is so long that it is none.

    Args:
      where: File that the captions are from.
      name: Name or number of their image.
      captions: Captions of the image.
    """
    longest = max(map(len, captions), default=0)
    if longest > MAX_CAPTION:
        raise DataError(
            f"{where} has a caption of {longest:,} characters, of the image {shorten(name)};"
            f" expected at most {MAX_CAPTION:,}: shorten it."
        )


class CaptionExample(TypedDict):
    """One image with all its captions: `image`, or in its place `features` of an encoder."""

    image: NotRequired[bytes | np.ndarray]  # encoded, or uint8 [height, width, 3] RGB
    features: NotRequired[np.ndarray]  # float32 [positions, channels]
    captions: tuple[str, ...]
    image_id: int


class Captions(abc.ABC):
    """The captions of every image, as they were written, without the images themselves.

    Attributes:
      vocabulary: Vocabulary that the data brings; None: one is built from the captions.
    """

    vocabulary: Vocabulary | None = None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def captions(self, index: int) -> tuple[str, ...]:
        """Returns all captions of one image, at least one: what scores compare with."""

    @abc.abstractmethod
    def image_id(self, index: int) -> int:
        """Returns the number that joins an image with its captions; it fits into int32."""

    @abc.abstractmethod
    def describe(self, index: int) -> str:
        """Returns what a message calls this image: a file name where there is one."""

    def parts(self) -> Mapping[str, str]:
        """Returns a digest of each part of the data; see `Records.parts`."""
        return {}

    def all_captions(self) -> Iterator[str]:
        """Yields the captions of all images, to make a vocabulary of or to find the longest."""
        for index in range(len(self)):
            yield from self.captions(index)


class CaptionSource(Captions, Records):
    """Random access to images, or features of images, with their captions.

    Reading is safe from many threads at once, and a source can be pickled into worker processes.
    """

    @abc.abstractmethod
    def __getitem__(self, index: int) -> CaptionExample: ...


class CaptionSubset(CaptionSource):
    """Some images of another source.

    Args:
      source: Source of all images.
      indices: Indices of images of the source, in the wanted order.
    """

    def __init__(self, source: CaptionSource, indices: Sequence[int]):
        self._source, self._indices = source, indices
        self.vocabulary = source.vocabulary

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> CaptionExample:
        return self._source[self._indices[index]]

    def captions(self, index: int) -> tuple[str, ...]:
        """Returns all captions of one image."""
        return self._source.captions(self._indices[index])

    def image_id(self, index: int) -> int:
        """Returns the image's number in the whole."""
        return self._source.image_id(self._indices[index])

    def describe(self, index: int) -> str:
        """Returns the name of the image in the whole."""
        return self._source.describe(self._indices[index])


class CaptionList(Captions):
    """Images by number and file name, with their captions, in memory.

    Args:
      where: File that the captions are from.
      images: Number, file name and captions of each image.

    Raises:
      DataError: if a number occurs twice or does not fit.
    """

    def __init__(self, where: str, images: Iterable[tuple[int, str, Sequence[str]]]):
        self.where = where
        images = list(images)
        unusable = [number for number, _, _ in images if not 0 <= number <= MAX_IMAGE_ID]
        if unusable:
            raise DataError(
                f"{where} has the image id {shorten(unusable[0])}; expected 0 to {MAX_IMAGE_ID:,}."
            )
        for _, name, captions in images:
            check_captions(where, name, captions)
        self.image_ids = np.array([number for number, _, _ in images], np.int64)
        self.names = [name for _, name, _ in images]
        self._captions = [tuple(captions) for _, _, captions in images]
        unique, counts = np.unique(self.image_ids, return_counts=True)
        if len(unique) < len(images):
            twice = unique[counts > 1]
            raise DataError(
                f"{where} has {len(twice)} image ids more than once, the first is {twice[0]}; keep"
                " one entry for each image."
            )

    def with_words(self) -> "CaptionList":
        """Returns it without captions that have no word, and says in the log how many there are.

        Raises:
          DataError: if nothing is left.
        """
        told = [
            tuple(c for c in captions if any(map(str.isalnum, c))) for captions in self._captions
        ]
        empty = [i for i, captions in enumerate(told) if len(captions) < len(self._captions[i])]
        if not empty:
            return self
        images = [(self.image_id(i), name, told[i]) for i, name in enumerate(self.names) if told[i]]
        if not images:
            raise DataError(f"{self.where} has no caption with a word in it.")
        _log.warning(
            "%d captions in %s have no word, the first is of %s; they are left out, and with them "
            "%d of the %d images.",
            sum(map(len, self._captions)) - sum(map(len, told)),
            self.where,
            self.names[empty[0]],
            len(self) - len(images),
            len(self),
        )
        return CaptionList(self.where, images)

    def __len__(self) -> int:
        return len(self.names)

    def captions(self, index: int) -> tuple[str, ...]:
        """Returns all captions of one image, in the order of the file."""
        return self._captions[index]

    def image_id(self, index: int) -> int:
        """Returns the image's number."""
        return int(self.image_ids[index])

    def describe(self, index: int) -> str:
        """Returns the image's file name."""
        return self.names[index]

    def parts(self) -> dict[str, str]:
        """Returns a digest of all captions, with the numbers and names of their images."""
        images = zip(self.image_ids.tolist(), self.names, self._captions, strict=True)
        return {"captions": digest(f"{image}" for image in images)}

    def subset(self, indices: Sequence[int]) -> "CaptionList":
        """Returns some of the images, in the given order."""
        return CaptionList(
            self.where,
            ((self.image_id(i), self.names[i], self._captions[i]) for i in indices),
        )
