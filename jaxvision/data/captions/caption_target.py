"""Captions to tokens: one caption of each image, another one in every epoch."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxvision.data.captions.caption_source import Captions
from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.data.source import DataError
from jaxvision.data.target import Target

_log = logging.getLogger(__name__)

_SHORTEST = 3  # <START>, one word, <END>


class CaptionTarget(Target):
    """`tokens` and `image_id` of a batch of captions.

    In training, one of the image's captions is drawn by the record's own generator, so that the
    draw does not depend on workers or processes; in evaluation it is the first one. Captions that
    are too long lose words at their end; `check_captions` counts them.

    Args:
      vocabulary: Vocabulary of the tokens.
      max_length: Number of tokens of a row, all specials among them.

    Raises:
      DataError: if no word fits between <START> and <END>.
    """

    def __init__(self, vocabulary: Vocabulary, max_length: int):
        _check_length(max_length)
        self._vocabulary, self._max_length = vocabulary, max_length

    def __call__(self, index: int, record: Any, rng: np.random.Generator | None) -> dict[str, Any]:
        """Returns `tokens`, int32 [max_length], and `image_id`, int32."""
        captions = record["captions"]
        caption = captions[0 if rng is None else rng.integers(len(captions))]
        return {
            "tokens": self._vocabulary.encode(caption, self._max_length),
            "image_id": np.int32(record["image_id"]),
        }

    def blank(self) -> dict[str, Any]:
        """Returns padding alone, of the image -1."""
        tokens = np.full(self._max_length, self._vocabulary.pad, np.int32)
        return {"tokens": tokens, "image_id": np.int32(-1)}


@dataclass(frozen=True)
class CaptionCounts:
    """How captions fit a vocabulary and a length.

    Attributes:
      captions: Number of all captions.
      truncated: Number of captions that are too long.
      words: Number of words, or pieces of words, of all captions.
      unknown: Number of those words that the vocabulary lacks.
      longest: Number of tokens of the longest caption, all specials among them.
    """

    captions: int
    truncated: int
    words: int
    unknown: int
    longest: int


def check_captions(
    captions: Captions, vocabulary: Vocabulary, max_length: int, *, strict: bool = False
) -> CaptionCounts:
    """Returns how captions fit a vocabulary and a length, after one line in the log about it.

    Args:
      captions: Captions of one split.
      vocabulary: Vocabulary of the tokens.
      max_length: Number of tokens of a row, all specials among them.
      strict: Whether captions that are too long are refused, instead of cut.

    Raises:
      DataError: if no word fits, or if `strict` and a caption is too long.
    """
    _check_length(max_length)
    number = truncated = words = unknown = longest = 0
    longest_caption = ""
    for caption in captions.all_captions():
        ids = vocabulary.ids(caption)
        length = len(ids) + vocabulary.num_specials
        number += 1
        words += len(ids)
        unknown += ids.count(vocabulary.unk)
        truncated += length > max_length
        if length > longest:
            longest, longest_caption = length, caption
    if truncated and strict:
        raise DataError(
            f"{truncated} of {number} captions are longer than {max_length} tokens, the longest"
            f" needs {longest} with <START> and <END>: {longest_caption[:80]!r}; raise the length,"
            " or let long captions be cut."
        )
    _log.info(
        "%d captions: %d cut to %d tokens (the longest has %d), %.2f %% of %d words unknown.",
        number,
        truncated,
        max_length,
        longest,
        100 * unknown / max(words, 1),
        words,
    )
    return CaptionCounts(number, truncated, words, unknown, longest)


def _check_length(max_length: int) -> None:
    if max_length < _SHORTEST:
        raise DataError(
            f"A caption needs at least {_SHORTEST} tokens, <START>, a word and <END>, but its"
            f" length is {max_length}."
        )
