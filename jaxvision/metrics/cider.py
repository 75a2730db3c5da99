"""CIDEr-D, for evaluation and as the reward of self-critical training."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int

from jaxvision.errors import InputError
from jaxvision.metrics.ngram import Places, ReferenceNgrams, count_grams, lengths

_SIGMA = 6.0  # words by which lengths may differ


@dataclasses.dataclass(frozen=True)
class DocumentFrequency:
    """In how many images' references each n-gram occurs.

    Attributes:
      images: Number of images of the corpus.
      counts: Number of images with each n-gram, a tuple of words; n-grams that are missing count as
        1.
    """

    images: int
    counts: Mapping[tuple[str, ...], float | int]


def document_frequency(references: Sequence[Sequence[str]], *, n: int = 4) -> DocumentFrequency:
    """Returns the document frequencies of a corpus, to score other images with.

    Args:
      references: Tokenized captions of each image.
      n: Number of words of the longest n-gram.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for captions in references:
        grams = set()
        for words in map(str.split, captions):
            for k in range(1, n + 1):
                grams.update(zip(*(words[i:] for i in range(k)), strict=False))
        counts.update(grams)
    return DocumentFrequency(len(references), counts)


class Cider:
    """CIDEr-D against fixed references: built once, then any number of candidates for any image.

    Args:
      references: Tokenized captions of each image, or their n-grams.
      frequency: Document frequencies of another corpus; None: the references are the corpus.
      n: Number of words of the longest n-gram; ignored where `references` are n-grams.

    Raises:
      InputError: if an image has no reference.

    Note:
      The scale is pycocoevalcap's: 0 to 10, where papers print 1.2 as 120. An n-gram that every
      image has weighs nothing; so with a single image the score is exactly 0, and with a few it
      says little.

    Source: Vedantam et al. 2015, CIDEr, sections 4 and 8 (CIDEr-D); code: pycocoevalcap 1.2,
    `cider_scorer.py`.
    """

    def __init__(
        self,
        references: Sequence[Sequence[str]] | ReferenceNgrams,
        *,
        frequency: DocumentFrequency | None = None,
        n: int = 4,
    ):
        if not isinstance(references, ReferenceNgrams):
            others = map(" ".join, frequency.counts) if frequency else ()
            references = ReferenceNgrams(references, n, tuple(others))
        self._references = references
        images, counts = len(references.first) - 1, [t.images_with for t in references.tables]
        if frequency:
            images, counts = frequency.images, _counts(references, frequency)
        # One more weight than n-grams: that of those which the corpus does not have.
        self._idf = [
            np.log(max(images, 1)) - np.log(np.append(np.maximum(count, 1), 1)) for count in counts
        ]
        self._weights, self._norms = [], []
        for table, idf in zip(references.tables, self._idf, strict=True):
            weights = table.counts.count * idf[table.counts.gram]
            self._weights.append(weights)
            self._norms.append(_norms(table.counts.caption, weights, len(references.image)))
        self._length = _compared_length(references.lengths, len(references.tables))

    def score(
        self,
        candidates: Sequence[str],
        indices: Sequence[int] | Int[np.ndarray, " candidates"] | None = None,
    ) -> Float64[np.ndarray, " candidates"]:
        """Returns the score of each candidate; the corpus value is their mean.

        Args:
          candidates: Tokenized captions to score.
          indices: Indices of the images of the candidates; None: one candidate for each image, in
            order.

        Raises:
          InputError: if there is not one index, of an image, for each candidate.
        """
        images = len(self._references.first) - 1
        image = np.arange(images) if indices is None else np.asarray(indices, np.int64)
        if len(image) != len(candidates):
            raise InputError(
                f"Expected one candidate for each of {len(image)} images, got {len(candidates)}."
            )
        if len(image) and not (0 <= image.min() and image.max() < images):
            raise InputError(
                f"Expected indices of {images} images, got {image.min()} to {image.max()}."
            )
        return self.score_ngrams(self._references.index.encode(candidates), image)

    def score_ngrams(
        self, candidates: Sequence[Places], image: Int[np.ndarray, " candidates"]
    ) -> Float64[np.ndarray, " candidates"]:
        """Returns the score of each candidate.

        Args:
          candidates: N-grams of the candidates, of each order from 1 on.
          image: Indices of the images of the candidates.
        """
        references, number = self._references, len(image)
        length = _compared_length(lengths(candidates, number), len(candidates))
        total = np.zeros(number)
        for n, places in enumerate(candidates):
            counts, table = count_grams(places), references.tables[n]
            idf, ref_weights, ref_norms = self._idf[n], self._weights[n], self._norms[n]
            weights = counts.count * idf[np.minimum(counts.gram, table.size)]
            norms = _norms(counts.caption, weights, number)
            group, found = table.find(image[counts.caption], counts.gram)
            entry, pair = _expand(table.start, group[found])
            candidate, weight = counts.caption[found][pair], weights[found][pair]
            caption = table.counts.caption[entry]
            product = np.minimum(weight, ref_weights[entry]) * ref_weights[entry]
            norm = norms[candidate] * ref_norms[caption]
            difference = length[candidate] - self._length[caption]
            similarity = product / np.where(norm == 0, 1, norm)
            similarity *= np.exp(-(difference**2) / (2 * _SIGMA**2))
            total += np.bincount(candidate, similarity, minlength=number)
        per_image = np.diff(references.first)
        return 10 * total / len(candidates) / per_image[image]


def compute_cider(
    candidate: str, references: Sequence[str], df: DocumentFrequency, n: int = 4
) -> float:
    """Returns CIDEr-D of one candidate; `Cider` is for many.

    Args:
      candidate: Tokenized caption to score.
      references: Tokenized captions of the same image.
      df: Document frequencies of the corpus.
      n: Number of words of the longest n-gram.
    """
    return float(Cider([references], frequency=df, n=n).score([candidate])[0])


def _counts(references: ReferenceNgrams, frequency: DocumentFrequency) -> list[np.ndarray]:
    """Returns in how many images of the other corpus each n-gram of the index is, by order."""
    grams = list(frequency.counts)
    values = np.fromiter(frequency.counts.values(), np.float64, len(grams))
    length = np.fromiter(map(len, grams), np.int64, len(grams))
    counts = []
    places = references.index.encode([" ".join(gram) for gram in grams])
    for n, (place, size) in enumerate(zip(places, references.index.sizes, strict=True), start=1):
        whole = length[place.caption] == n
        count = np.zeros(size)
        count[place.gram[whole]] = values[place.caption[whole]]
        counts.append(count)
    return counts


def _compared_length(
    length: Int[np.ndarray, " captions"], orders: int
) -> Int[np.ndarray, " captions"]:
    """Returns what the penalty for a wrong length compares: the number of bigrams."""
    return np.maximum(length - 1, 0) if orders > 1 else np.zeros_like(length)


def _norms(
    caption: Int[np.ndarray, " entries"], weights: Float64[np.ndarray, " entries"], captions: int
) -> Float64[np.ndarray, " captions"]:
    return np.sqrt(np.bincount(caption, weights**2, minlength=captions))


def _expand(
    start: Int[np.ndarray, " groups_and_end"], group: Int[np.ndarray, " wanted"]
) -> tuple[Int[np.ndarray, " entries"], Int[np.ndarray, " entries"]]:
    """Returns all entries of some groups, and to which of the wanted groups each belongs."""
    size = start[group + 1] - start[group]
    wanted = np.repeat(np.arange(len(group)), size)
    before = np.cumsum(size) - size
    return np.arange(len(wanted)) + (start[group] - before)[wanted], wanted
