"""BLEU, as COCO's caption evaluation computes it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int

from jaxvision.metrics.ngram import Places, ReferenceNgrams, count_grams, lengths

# The reference implementation's: a caption without a match, or without words, stays above 0.
_TINY, _SMALL = 1e-15, 1e-9


def bleu(
    references: ReferenceNgrams, candidates: Sequence[Places], number: int
) -> tuple[Float64[np.ndarray, " orders"], Float64[np.ndarray, "candidates orders"]]:
    """Returns BLEU-1, BLEU-2, ... of the corpus, and of each candidate.

    The corpus value is not the mean of the candidates' values: matches, n-grams and lengths are
    summed first.

    Args:
      references: N-grams of the references of each image.
      candidates: N-grams of one candidate for each image, in the same order; one entry for each
        order of n-grams.
      number: Number of candidates.

    Note:
      Each candidate is compared with the length of that reference of its image that is closest
      to it, of two equally close ones the shorter. Nothing else is smoothed than 0 / 0.

    Source: Papineni et al. 2002, BLEU; code: pycocoevalcap 1.2, `bleu_scorer.py`, "closest".
    """
    length = lengths(candidates, number)
    orders = np.arange(len(candidates))
    possible = np.maximum(length[:, None] - orders[None, :], 0)
    matched = np.stack(
        [_matches(references, candidates, n, number) for n in range(len(candidates))], axis=1
    )
    closest = _closest_lengths(references, length)
    each = _scores(matched, possible, length, closest)
    corpus = _scores(
        matched.sum(0)[None], possible.sum(0)[None], length.sum()[None], closest.sum()[None]
    )
    return corpus[0], each


def _matches(
    references: ReferenceNgrams, candidates: Sequence[Places], n: int, number: int
) -> Int[np.ndarray, " candidates"]:
    """Returns how many n-grams of each candidate its references have, each as often as one has."""
    counts, table = count_grams(candidates[n]), references.tables[n]
    group, found = table.find(counts.caption, counts.gram)
    matches = np.minimum(counts.count[found], table.most[group[found]])
    return np.bincount(counts.caption[found], matches, minlength=number).astype(np.int64)


def _closest_lengths(
    references: ReferenceNgrams, length: Int[np.ndarray, " candidates"]
) -> Int[np.ndarray, " candidates"]:
    if not len(length):
        return length
    stride = int(references.lengths.max(initial=0)) + 1
    distance = np.abs(references.lengths - length[references.image])
    return (
        np.minimum.reduceat(distance * stride + references.lengths, references.first[:-1]) % stride
    )


def _scores(
    matched: Int[np.ndarray, "rows orders"],
    possible: Int[np.ndarray, "rows orders"],
    length: Int[np.ndarray, " rows"],
    closest: Int[np.ndarray, " rows"],
) -> Float[np.ndarray, "rows orders"]:
    precision = np.cumprod((matched + _TINY) / (possible + _SMALL), axis=1)
    means = precision ** (1 / np.arange(1, matched.shape[1] + 1))[None, :]
    ratio = (length + _TINY) / (closest + _SMALL)
    return means * np.exp(np.minimum(1 - 1 / ratio, 0))[:, None]
