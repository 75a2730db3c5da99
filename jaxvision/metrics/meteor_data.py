"""The word lists of METEOR 1.5, read where pycocoevalcap has them; no Java and no download."""

import functools
import gzip
import pathlib
import zipfile
from collections.abc import Iterable

from jaxvision.errors import InputError
from jaxvision.metrics.english_stemmer import stem
from jaxvision.metrics.evaluation_package import INSTALL, find_package

_JAR, _PARAPHRASES = "meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz"
_BLOCK_BYTES = 1 << 23
# WordNet's endings of inflected words, and what base forms have in their place.
_ENDINGS = (
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
    ("men", "man"), ("ies", "y"), ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"),
    ("ed", ""), ("ing", "e"), ("ing", ""), ("er", ""), ("est", ""), ("er", "e"), ("est", "e"),
)  # fmt: skip


def has_meteor() -> bool:
    """Returns whether METEOR's word lists are there."""
    folder = find_package()
    return folder is not None and all((folder / file).is_file() for file in (_JAR, _PARAPHRASES))


class MeteorData:
    """Function words, stems, synonyms and paraphrases.

    Raises:
      InputError: if pycocoevalcap is not installed.
    """

    def __init__(self):
        folder = find_package()
        if folder is None or not has_meteor():
            raise InputError(
                f"METEOR reads its word lists from the package pycocoevalcap; {INSTALL}."
            )
        with zipfile.ZipFile(folder / _JAR) as jar:

            def lines(name: str) -> list[str]:
                return jar.read(name).decode("utf-8").split("\n")

            self.function_words = frozenset(lines("function/english.words"))
            prefixes = [
                line.split()
                for line in lines("nonbreaking/english.prefixes")
                if line.strip() and not line.startswith("#")
            ]
            bases, sets = lines("synonym/english.exceptions"), lines("synonym/english.synsets")
        self.prefixes = {words[0]: "#NUMERIC_ONLY#" in words for words in prefixes}
        self._synonyms = dict(zip(sets[::2], sets[1::2], strict=False))
        self._bases: dict[str, list[str]] = {}
        for base, words in zip(bases[::2], bases[1::2], strict=False):
            for word in words.split():
                self._bases.setdefault(word, []).append(base)
        self._paraphrase_file = folder / _PARAPHRASES
        self._known: frozenset[str] = frozenset()
        self._paraphrases: dict[str, dict[str, int]] = {}
        self.relation = functools.lru_cache(1 << 18)(self._relation)
        self._meanings = functools.lru_cache(1 << 17)(self._find_meanings)

    def paraphrases(self, words: frozenset[str]) -> dict[str, dict[str, int]]:
        """Returns the paraphrases of phrases, each with its place in the list.

        The list has five million; only those that consist of the given words are kept.

        Args:
          words: Words of all captions.
        """
        if not words <= self._known:
            self._known |= words
            self._paraphrases = _read_paraphrases(self._paraphrase_file, self._known)
        return self._paraphrases

    def _relation(self, first: str, second: str) -> tuple[int, ...]:
        """Returns how two words match: 0 exactly, 1 by their stems, 2 as synonyms."""
        if first == second:
            return (0,)
        by_stem = (1,) if stem(first) == stem(second) else ()
        unlike = self._meanings(first).isdisjoint(self._meanings(second))
        return by_stem if unlike else (*by_stem, 2)

    def _find_meanings(self, word: str) -> frozenset[str]:
        """Returns the synonym sets of a word and of what it may be an inflection of."""
        bases = self._bases.get(word) or [self._base(word)]
        return frozenset(name for x in (word, *bases) for name in self._synonyms.get(x, "").split())

    def _base(self, word: str) -> str:
        if word.endswith("ss") or len(word) <= 2:
            return word
        bases = (
            word.removesuffix(ending) + other for ending, other in _ENDINGS if word.endswith(ending)
        )
        return next((base for base in bases if base in self._synonyms), "")


def _read_paraphrases(path: pathlib.Path, words: Iterable[str]) -> dict[str, dict[str, int]]:
    """Returns the paraphrases that consist of some words, in the order of the file.

    The file has three lines for each: a probability, a phrase and what it may be replaced by; those
    of a phrase follow each other.
    """
    known = {word.encode() for word in words}
    found: dict[str, dict[str, int]] = {}
    phrase, usable, others = b"", False, {}
    rest = b""
    with gzip.open(path) as file:
        while block := file.read(_BLOCK_BYTES):
            lines = (rest + block).split(b"\n")
            whole = (len(lines) - 1) // 3 * 3
            rest = b"\n".join(lines[whole:])
            for one, other in zip(lines[1:whole:3], lines[2:whole:3], strict=True):
                if one != phrase:
                    phrase, usable = one, known.issuperset(one.split())
                    if usable:
                        others = found.setdefault(one.decode(), {})
                if usable and known.issuperset(other.split()):
                    others.setdefault(other.decode(), len(others))
    return found
