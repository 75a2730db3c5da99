"""Words to token numbers and back; the rule by which a caption is cut into words."""

import collections
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from jaxvision.data.source import DataError
from jaxvision.files import write_text

SPECIALS = ("<NULL>", "<START>", "<END>", "<UNK>")  # the order and names of CS231n
PAD, START, END, UNK = range(len(SPECIALS))
_FORMAT = "jaxvision vocabulary 1"
WANTED = (
    "a vocabulary that this project saved, or CS231n's coco2014_vocab.json, with the words"
    f" {' '.join(SPECIALS)} first"
)
# Letters and digits, held together by hyphens and apostrophes. 's is a word of its own, as in the
# Penn Treebank, so that a word and its genitive share an entry.
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+|'(?!s\b)[^\W_]+)*|'s\b")


def caption_words(caption: str) -> list[str]:
    """Returns the words of a caption in lower case, without punctuation.

    >>> caption_words("A child 's merry-go-round, isn't it?")
    ['a', 'child', "'s", 'merry-go-round', "isn't", 'it']
    """
    return _WORD.findall(caption.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def join_words(words: Iterable[str]) -> str:
    """Returns a caption of words, in which 's is no longer apart."""
    return " ".join(words).replace(" 's", "'s")


class Vocabulary:
    """Words, numbered: the specials are 0 to 3, as in CS231n.

    Args:
      words: Words without the specials, in the order of their numbers from 4 on.

    Attributes:
      words: Every token, in the order of their numbers.
      num_specials: Number of the tokens around those of a caption.
    """

    words: tuple[str, ...]
    num_specials: int = 2

    def __init__(self, words: Sequence[str]):
        self.words = (*SPECIALS, *words)
        self._index = {word: index for index, word in enumerate(self.words)}
        if len(self._index) != len(self.words):
            counts = collections.Counter(self.words)
            raise DataError(f"The vocabulary has the word {counts.most_common(1)[0][0]!r} twice.")

    @classmethod
    def build(cls, captions: Iterable[str], *, min_count: int) -> "Vocabulary":
        """Returns the words that occur in captions, the most frequent first.

        Args:
          captions: Captions of the training split alone.
          min_count: Least number of times that a word occurs; rarer words become <UNK>.

        Raises:
          DataError: if no word is left.
        """
        counts = collections.Counter(word for c in captions for word in caption_words(c))
        frequent = [word for word, count in counts.items() if count >= min_count]
        if not frequent:
            raise DataError(
                f"None of the {len(counts)} words of the captions occurs {min_count} times; take a"
                " smaller minimum count."
            )
        return cls(sorted(frequent, key=lambda word: (-counts[word], word)))

    @classmethod
    def from_json(cls, content: dict[str, Any], path: str) -> "Vocabulary":
        """Returns the vocabulary in the content of a file."""
        words = content.get("words", content.get("idx_to_word"))
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError(f"{path} holds no list of words; expected {WANTED}.")
        if tuple(words[: len(SPECIALS)]) != SPECIALS:
            raise DataError(f"{path} begins with the words {words[:4]}; expected {WANTED}.")
        if len(set(words)) != len(words):
            raise DataError(f"{path} holds a word twice; expected {WANTED}.")
        return cls(words[len(SPECIALS) :])

    def save(self, path: str) -> None:
        """Writes a JSON file, which appears under its name only when it is complete."""
        content = {"format": _FORMAT, **self._content()}
        write_text(pathlib.Path(path), json.dumps(content, ensure_ascii=False, indent=0))

    def _content(self) -> dict[str, Any]:
        return {"words": list(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    @property
    def pad(self) -> int:
        """Number of <NULL>, which fills a row behind <END>."""
        return PAD

    @property
    def start(self) -> int:
        """Number of <START>."""
        return START

    @property
    def end(self) -> int:
        """Number of <END>."""
        return END

    @property
    def unk(self) -> int:
        """Number of <UNK>, which stands for every word that is not in the vocabulary."""
        return UNK

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ between any two vocabularies."""
        text = json.dumps(self._content(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def ids(self, caption: str) -> list[int]:
        """Returns the numbers of a caption's words, without specials around them."""
        index = self._index
        return [index.get(word, UNK) for word in caption_words(caption)]

    def encode(self, caption: str, max_length: int) -> Int32[np.ndarray, " max_length"]:
        """Returns <START>, the words, <END> and <NULL> up to a length.

        Args:
          caption: Text of the caption; one that is too long loses words at its end, and keeps
            <END>.
          max_length: Number of tokens, all specials among them.
        """
        ids = self.ids(caption)[: max_length - 2]
        tokens = np.full(max_length, PAD, np.int32)
        tokens[: len(ids) + 2] = [START, *ids, END]
        return tokens

    def decode(self, tokens: Int[np.ndarray, " length"] | Sequence[int]) -> str:
        """Returns the words up to the first <END>, without specials.

        Raises:
          DataError: if a number is not in the vocabulary.
        """
        ids = []
        for token in np.asarray(tokens).tolist():
            if token == END:
                break
            if not 0 <= token < len(self.words):
                raise DataError(
                    f"The token {token} is not among the {len(self.words)} of the vocabulary; take"
                    " the vocabulary that the model was trained with."
                )
            if token >= len(SPECIALS):
                ids.append(token)
        return self._join(ids)

    def _join(self, ids: list[int]) -> str:
        return join_words(self.words[i] for i in ids)


def check_vocabulary(
    vocabulary: Vocabulary, *, size: int, fingerprint: str = "", where: str
) -> None:
    """Checks that a vocabulary is the one that some weights were trained with.

    Args:
      vocabulary: Vocabulary at hand.
      size: Number of outputs of the trained head.
      fingerprint: Fingerprint of the vocabulary that is kept with the weights; "": unknown.
      where: Name by which a message calls the weights.

    Raises:
      DataError: if it is another one.
    """
    if len(vocabulary) != size:
        raise DataError(
            f"The vocabulary has {len(vocabulary)} tokens, but {where} was trained with {size};"
            " take the vocabulary that was saved with it, or start in a new workdir."
        )
    if fingerprint and vocabulary.fingerprint != fingerprint:
        raise DataError(
            f"The vocabulary has {size} tokens like that of {where}, but other words or another"
            " order; take the vocabulary that was saved with it, or start in a new workdir."
        )
