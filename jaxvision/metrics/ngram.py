"""N-grams of tokenized captions as integers: what BLEU and CIDEr count, once for both."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from jaxvision.errors import InputError


@dataclasses.dataclass(frozen=True)
class Places:
    """The n-grams of one order at every place of some captions, in reading order.

    Attributes:
      caption: Index of the caption at each place.
      gram: Number of the n-gram at each place, as `NgramIndex` gives it.
    """

    caption: Int[np.ndarray, " places"]
    gram: Int[np.ndarray, " places"]

    def before(self, caption: int) -> "Places":
        """Returns those of the captions before one."""
        end = int(np.searchsorted(self.caption, caption))
        return Places(self.caption[:end], self.gram[:end])


@dataclasses.dataclass(frozen=True)
class Counts:
    """How often captions have the n-grams of one order, an entry for each kind in a caption."""

    caption: Int[np.ndarray, " entries"]
    gram: Int[np.ndarray, " entries"]
    count: Int[np.ndarray, " entries"]


class NgramIndex:
    """Numbers for the n-grams of the captions that it has learned, from 0 up for each order.

    An n-gram's key is the number of its first n - 1 words, as an (n - 1)-gram, times the number of
    words, plus its last word; its own number is the place of that key among the sorted keys. So
    everything after the dictionary of words is sorting and searching of integers.

    Attributes:
      sizes: Number of n-grams of each order, from 1 on.
    """

    def __init__(self):
        self._words: dict[str, int] = {}
        self._keys: list[np.ndarray] = []  # sorted, of the orders from 2 on
        self.sizes: list[int] = []

    def learn(self, captions: Sequence[str], order: int) -> list[Places]:
        """Gives numbers to the n-grams of captions, once, and returns these for each order.

        Args:
          captions: Tokenized captions.
          order: Number of words of the longest n-gram.
        """
        if self.sizes:
            raise ValueError("An index learns once.")
        return self._number(captions, order)

    def encode(self, captions: Sequence[str]) -> list[Places]:
        """Returns the n-grams of other captions, for each order.

        Numbers from `sizes` on are n-grams that the index does not know; such a number means the
        same n-gram in all captions of this call.
        """
        return self._number(captions, len(self.sizes))

    def _number(self, captions: Sequence[str], order: int) -> list[Places]:
        """Returns the numbers of n-grams; the first call decides what they mean."""
        first = not self.sizes
        lists = [caption.split() for caption in captions]
        stream = list(itertools.chain.from_iterable(lists))
        words = self._words if first else dict(self._words)
        for word in dict.fromkeys(stream):
            words.setdefault(word, len(words))
        if first:
            self.sizes.append(len(words))
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        last = np.fromiter(map(words.__getitem__, stream), np.int64, len(stream))
        caption = np.repeat(np.arange(len(lists)), lengths)
        end = np.repeat(np.cumsum(lengths), lengths)
        place, gram = np.arange(len(stream)), last
        result = [Places(caption, gram)]
        for n in range(2, order + 1):
            inside = place + n <= end[place]
            place, gram = place[inside], gram[inside]
            word = last[place + n - 1]
            key = gram * len(words) + word
            if first:
                keys, gram = np.unique(key, return_inverse=True)
                self._keys.append(keys)
                self.sizes.append(len(keys))
            else:
                known = (gram < self.sizes[n - 2]) & (word < self.sizes[0])
                gram, found = search(self._keys[n - 2], gram * self.sizes[0] + word)
                new = ~(known & found)
                gram[new] = self.sizes[n - 1] + np.unique(key[new], return_inverse=True)[1]
            result.append(Places(caption[place], gram))
        return result


class ReferenceTable:
    """The n-grams of one order in the references, grouped by image and n-gram.

    Attributes:
      size: Number of n-grams of this order that the index has learned.
      counts: Counts, one entry for each caption and n-gram; those of a group follow each other.
      start: Index of the first entry of each group, and behind the last one the number of entries.
      most: Largest count of each group.
      images_with: Number of images that have each n-gram.
    """

    def __init__(
        self,
        places: Places,
        size: int,
        image: Int[np.ndarray, " captions"],
        first: Int[np.ndarray, " images_and_end"],
    ):
        self.size = size
        image = image[places.caption]
        captions = int(np.diff(first).max(initial=1))  # of an image
        key = (image * size + places.gram) * captions + places.caption - first[image]
        key, count = np.unique(key, return_counts=True)
        group, caption = key // captions, key % captions
        start = np.flatnonzero(np.diff(group, prepend=-1))
        self._groups = group[start]
        image, gram = np.divmod(group, max(size, 1))
        small = np.int32 if max(size, first[-1]) < 1 << 31 else np.int64
        columns = (caption + first[image], gram, count)
        self.counts = Counts(*(column.astype(small) for column in columns))
        self.start = np.append(start, len(group))
        self.most = np.maximum.reduceat(count, start) if len(start) else count
        self.images_with = np.bincount(gram[start], minlength=size)

    def find(
        self, image: Int[np.ndarray, " entries"], gram: Int[np.ndarray, " entries"]
    ) -> tuple[Int[np.ndarray, " entries"], Bool[np.ndarray, " entries"]]:
        """Returns the group of each image and n-gram, and whether there is one."""
        group, found = search(self._groups, image * self.size + gram)
        return group, found & (gram < self.size)


class ReferenceNgrams:
    """The n-grams of all images' references, built once for any number of candidates.

    Args:
      references: Tokenized captions of each image, at least one.
      order: Number of words of the longest n-gram.
      other: Tokenized captions whose n-grams are to have numbers, too.

    Raises:
      InputError: if an image has no reference.
    """

    def __init__(
        self, references: Sequence[Sequence[str]], order: int = 4, other: Sequence[str] = ()
    ):
        number = np.fromiter(map(len, references), np.int64, len(references))
        if not number.all():
            raise InputError(f"Image {int(np.argmin(number))} (from 0) has no reference caption.")
        self.first = np.concatenate([[0], np.cumsum(number)])
        self.image = np.repeat(np.arange(len(references)), number)
        self.index, captions = NgramIndex(), len(self.image)
        places = self.index.learn([*itertools.chain.from_iterable(references), *other], order)
        places = [place.before(captions) for place in places]
        self.lengths = lengths(places, captions)
        self.tables = [
            ReferenceTable(place, size, self.image, self.first)
            for place, size in zip(places, self.index.sizes, strict=True)
        ]


def count_grams(places: Places) -> Counts:
    """Returns the counts of the n-grams, sorted by caption."""
    stride = int(places.gram.max(initial=0)) + 1
    key, count = np.unique(places.caption * stride + places.gram, return_counts=True)
    return Counts(key // stride, key % stride, count)


def lengths(places: Sequence[Places], captions: int) -> Int[np.ndarray, " captions"]:
    """Returns the number of words of each caption.

    Args:
      places: N-grams of each order, from 1 on.
      captions: Number of captions.
    """
    return np.bincount(places[0].caption, minlength=captions)


def search(
    keys: Int[np.ndarray, " keys"], wanted: Int[np.ndarray, " wanted"]
) -> tuple[Int[np.ndarray, " wanted"], Bool[np.ndarray, " wanted"]]:
    """Returns the place in the sorted keys of each wanted one, and whether it is there."""
    if not len(keys):
        return np.zeros_like(wanted), np.zeros(len(wanted), bool)
    place = np.searchsorted(keys, wanted)
    place[place == len(keys)] = 0
    return place, keys[place] == wanted
