"""METEOR 1.5 for English, without Java."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int

from jaxvision.metrics.meteor_align import Caption, Match, align
from jaxvision.metrics.meteor_data import MeteorData
from jaxvision.metrics.meteor_text import meteor_words

# The program's parameters for English: weight of recall, power and weight of the penalty for
# fragments, weight of content words, and of the kinds of matches.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = (1.0, 0.6, 0.8, 0.6)

_data = functools.cache(MeteorData)


def meteor(
    references: Sequence[Sequence[str]], candidates: Sequence[str]
) -> tuple[float, Float64[np.ndarray, " candidates"]]:
    """Returns METEOR of the corpus, and of each candidate.

    The corpus value is not the mean of the candidates' values: matches and lengths are summed
    first, each candidate's with the reference that suits it best.

    Args:
      references: Tokenized captions of each image, at least one.
      candidates: Tokenized captions to score, one for each image.

    Raises:
      InputError: if pycocoevalcap, which has the word lists, is not installed.

    Source: Denkowski and Lavie 2014, Meteor Universal; program: METEOR 1.5, -l en -norm.
    """
    data = _data()
    texts = {*candidates, *(caption for captions in references for caption in captions)}
    words = {text: meteor_words(text, data.prefixes) for text in texts}
    paraphrases = data.paraphrases(frozenset(word for some in words.values() for word in some))
    best, scores = [], []
    for captions, text in zip(references, candidates, strict=True):
        candidate = Caption(words[text], paraphrases, data.function_words)
        counts = []
        for caption in captions:
            reference = Caption(words[caption], paraphrases, data.function_words)
            counts.append(_count(candidate, reference, align(candidate, reference, data)))
        values = [_score(count) for count in counts]
        scores.append(max(values))
        best.append(counts[values.index(scores[-1])])
    return _score(_add(best)), np.array(scores)


# Of one candidate and its reference, or of a corpus: words of the candidate and of the reference,
# function words of both, chunks, and behind them, for each kind of match, matched content words of
# both and matched function words of both.
_Counts = list[int]
_CHUNKS = 4


def _count(candidate: Caption, reference: Caption, matches: list[Match]) -> _Counts:
    lengths = [len(candidate.words), len(reference.words)]
    functions = [sum(candidate.is_function), sum(reference.is_function)]
    matched, chunks, end = [0] * (4 * len(_WEIGHTS)), 0, (-1, -1)
    for match in matches:
        for word in range(match.other, match.other + match.other_length):
            matched[4 * match.module + 2 * candidate.is_function[word]] += 1
        for word in range(match.start, match.start + match.length):
            matched[4 * match.module + 2 * reference.is_function[word] + 1] += 1
        chunks += end != (match.start, match.other)
        end = match.start + match.length, match.other + match.other_length
    return [*lengths, *functions, chunks, *matched]


def _add(counts: list[_Counts]) -> _Counts:
    """Returns the counts of a corpus; a candidate that is its reference has no fragments."""
    table: Int[np.ndarray, "candidates counts"] = np.array(counts)
    matched = table[:, _CHUNKS + 1 :].reshape(len(table), -1, 2).sum(axis=1)
    whole = (matched == table[:, :2]).all(axis=1) & (table[:, _CHUNKS] == 1)
    table[whole, _CHUNKS] = 0
    return table.sum(axis=0).tolist()


def _score(counts: _Counts) -> float:
    matched = counts[_CHUNKS + 1 :]
    sums = [sum(matched[side::2]) for side in (0, 1)]
    if not sums[0]:
        return 0.0
    shares = []
    for side in (0, 1):
        length, functions = counts[side], counts[2 + side]
        content, function = matched[side::4], matched[2 + side :: 4]
        weighted = 0.0
        for weight, number in zip(_WEIGHTS, content, strict=True):
            weighted += number * weight * _DELTA
        for weight, number in zip(_WEIGHTS, function, strict=True):
            weighted += number * weight * (1 - _DELTA)
        shares.append(weighted / (_DELTA * (length - functions) + (1 - _DELTA) * functions))
    precision, recall = shares
    mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    whole = sums == counts[:2] and counts[_CHUNKS] == 1
    fragments = 0.0 if whole else counts[_CHUNKS] / (sum(sums) / 2)
    return max(mean * (1 - _GAMMA * fragments**_BETA), 0.0)
