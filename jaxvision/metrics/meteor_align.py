"""Which words of a candidate METEOR matches with which words of a reference."""

import operator
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from jaxvision.metrics.meteor_data import MeteorData

_BEAM = 40
_LONGEST = 7  # words of a phrase among the paraphrases
_PARAPHRASE = 3
# What paths are compared by, in one integer: matched words first, then chunks, then distance.
_WORD, _CHUNK = 1 << 48, 1 << 24


class Match(NamedTuple):
    """Words of the candidate and words of the reference that say the same.

    Attributes:
      module: Kind of match: 0 the same words, 1 the same stem, 2 synonyms, 3 a paraphrase.
      start: Index of the first word in the reference.
      length: Number of words in the reference.
      other: Index of the first word in the candidate.
      other_length: Number of words in the candidate.
    """

    module: int
    start: int
    length: int
    other: int
    other_length: int

    @property
    def mask(self) -> int:
        """The words in the reference, as bits."""
        return ((1 << self.length) - 1) << self.start

    @property
    def other_mask(self) -> int:
        """The words in the candidate, as bits."""
        return ((1 << self.other_length) - 1) << self.other

    @property
    def gain(self) -> int:
        """Words that count in the search: half of them, rounded down, where they are not equal."""
        if self.module == 0:
            return self.length + self.other_length
        return self.length // 2 + self.other_length // 2


class Caption:
    """The words of a caption, and those of its phrases that have paraphrases.

    Attributes:
      words: Words of the caption, in lower case.
      is_function: Whether each word is a function word.
      places: Indices of the words at which each sequence of up to seven words begins.
      phrases: First word, number of words and paraphrases of each phrase that has some.
    """

    def __init__(
        self,
        words: Sequence[str],
        paraphrases: Mapping[str, Mapping[str, int]],
        function_words: Set[str],
    ):
        self.words = list(words)
        self.is_function = [word in function_words for word in words]
        self.places: dict[str, list[int]] = {}
        self.phrases: list[tuple[int, int, Mapping[str, int]]] = []
        for start in range(len(words)):
            for end in range(start + 1, min(start + _LONGEST, len(words)) + 1):
                text = " ".join(words[start:end])
                self.places.setdefault(text, []).append(start)
                if text in paraphrases:
                    self.phrases.append((start, end - start, paraphrases[text]))


def align(candidate: Caption, reference: Caption, data: MeteorData) -> list[Match]:
    """Returns the matches of two captions, in the order of the reference.

    Source: Denkowski and Lavie 2014, Meteor Universal, section 2. The beam search is that of the
    program METEOR 1.5, with its order of equally good paths.
    """
    same = candidate.words == reference.words
    matches = []
    for start, word in enumerate(reference.words):
        related = [
            Match(module, start, 1, other, 1)
            for other, text in enumerate(candidate.words)
            for module in data.relation(word, text)
            if not (same and module)
        ]
        matches.append(sorted(related))  # by module, then by the candidate's words
    if not same:
        _add_paraphrases(matches, candidate, reference)
    return _search(matches, len(candidate.words))


def _add_paraphrases(matches: list[list[Match]], candidate: Caption, reference: Caption) -> None:
    """Adds what the list says about phrases of the reference, then those of the candidate."""
    for start, length, others in reference.phrases:
        for text in _found(others, candidate):
            size = text.count(" ") + 1
            for other in candidate.places[text]:
                matches[start].append(Match(_PARAPHRASE, start, length, other, size))
    for other, size, others in candidate.phrases:
        for text in _found(others, reference):
            length = text.count(" ") + 1
            for start in reference.places[text]:
                matches[start].append(Match(_PARAPHRASE, start, length, other, size))


def _found(others: Mapping[str, int], caption: Caption) -> list[str]:
    """Returns the paraphrases that are in a caption, in the order of the list."""
    return sorted(others.keys() & caption.places.keys(), key=others.__getitem__)


def _search(matches: list[list[Match]], candidate_length: int) -> list[Match]:
    """Returns matches that share no word: many words, few chunks, little distance."""
    fixed = _without_rivals(matches, candidate_length)
    if all(start in fixed for start, options in enumerate(matches) if options):
        return list(fixed.values())
    used = other_used = 0
    for match in fixed.values():
        used, other_used = used | match.mask, other_used | match.other_mask
    # Cost, word of the candidate behind the latest match or -1, the first word of the reference
    # that no match has taken, used words of both, and the matches, nested.
    paths: list[tuple] = [(0, -1, 0, used, other_used, None)]
    for start, options in enumerate(matches):
        paths.sort(key=operator.itemgetter(0))
        paths, before = [], paths[:_BEAM]
        for cost, end, following, used, other_used, found in before:
            if used >> start & 1:
                if start >= following:
                    match = fixed[start]
                    cost += _cost(match, end) + abs(match.start - match.other)
                    following = start + match.length
                    end, found = match.other + match.other_length, (found, match)
                paths.append((cost, end, following, used, other_used, found))
                continue
            for match in options:
                if used & match.mask or other_used & match.other_mask:
                    continue
                paths.append(
                    (
                        cost + _cost(match, end),
                        match.other + match.other_length,
                        start + match.length,
                        used | match.mask,
                        other_used | match.other_mask,
                        (found, match),
                    )
                )
                # The program counts the distance for the paths that come later.
                cost += abs(match.start - match.other)
            cost += _CHUNK * (end != -1)
            paths.append((cost, -1, following + 1, used, other_used, found))
    paths.sort(key=operator.itemgetter(0))
    found = min(paths[:_BEAM], key=lambda path: path[0] + _CHUNK * (path[1] != -1))[-1]
    result = []
    while found:
        found, match = found
        result.append(match)
    return result[::-1]


def _cost(match: Match, end: int) -> int:
    """Returns what a match adds to the cost of a path, without its distance."""
    return _CHUNK * (end != -1 and match.other != end) - _WORD * match.gain


def _without_rivals(matches: list[list[Match]], candidate_length: int) -> dict[int, Match]:
    """Returns the matches none of whose words is in another match, by their first word."""
    times, other_times = [0] * len(matches), [0] * candidate_length
    for options in matches:
        for match in options:
            for i in range(match.start, match.start + match.length):
                times[i] += 1
            for i in range(match.other, match.other + match.other_length):
                other_times[i] += 1

    def alone(match: Match) -> bool:
        return all(
            n == 1
            for n in (
                *times[match.start : match.start + match.length],
                *other_times[match.other : match.other + match.other_length],
            )
        )

    return {
        options[0].start: options[0]
        for options in matches
        if len(options) == 1 and alone(options[0])
    }
