"""ROUGE-L, as COCO's caption evaluation computes it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

_BETA = 1.2  # how much more recall counts than precision


def rouge_l(
    references: Sequence[Sequence[str]], candidates: Sequence[str]
) -> Float64[np.ndarray, " candidates"]:
    """Returns ROUGE-L of each candidate; the corpus value is their mean.

    Args:
      references: Tokenized captions of each image, at least one.
      candidates: Tokenized captions to score, one for each image.

    Note:
      The best precision and the best recall may come from different references. Words are what
      single blanks separate, so an empty caption has one, empty, word; both as in pycocoevalcap.

    Source: Lin 2004, ROUGE, section 3; code: pycocoevalcap 1.2, `rouge.py`.
    """
    scores = map(_score, references, candidates)
    return np.fromiter(scores, np.float64, len(candidates))


def _score(references: Sequence[str], candidate: str) -> float:
    words = candidate.split(" ")
    places: dict[str, int] = {}  # of each word, as the bits of an integer
    for i, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << i
    precision = recall = 0.0
    for reference in references:
        others = reference.split(" ")
        common = _common_length(places, others, len(words))
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(others))
    if not precision:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common_length(places: dict[str, int], words: list[str], length: int) -> int:
    """Returns the length of the longest common subsequence, with one addition for each word.

    A bit of `open_places` is 0 where the subsequence that ends there is longer than the one that
    ends a place before.

    Args:
      places: Places of each word in the candidate, as the bits of an integer.
      words: Words of the reference.
      length: Number of words of the candidate.

    Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited, figure 2.
    """
    open_places = (1 << length) - 1
    for word in words:
        if word in places:
            match = open_places & places[word]
            open_places = (open_places + match) | (open_places - match)
    return length - (open_places & ((1 << length) - 1)).bit_count()
