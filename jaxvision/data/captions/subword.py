"""Pieces of words to token numbers and back, by the `tokenizers` package."""

import importlib
import json
from collections.abc import Iterable
from typing import Any

from jaxvision.data.captions.vocabulary import SPECIALS, Vocabulary, caption_words, join_words
from jaxvision.data.source import DataError

_NUM_BYTES = 256


class SubwordVocabulary(Vocabulary):
    """Pieces of words by byte pair encoding over bytes, so that no word is unknown.

    Captions are brought to the words of `caption_words` first, so that both kinds of vocabulary
    write the same captions.

    Args:
      tokenizer: JSON text of a tokenizer of the `tokenizers` package, with the specials first.
    """

    def __init__(self, tokenizer: str):
        self._tokenizer = tokenizers_library().Tokenizer.from_str(tokenizer)
        numbers = sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])
        super().__init__([word for word, _ in numbers[len(SPECIALS) :]])

    @classmethod
    def build(cls, captions: Iterable[str], *, size: int) -> "SubwordVocabulary":
        """Returns the most useful pieces of captions.

        Args:
          captions: Captions of the training split alone.
          size: Number of pieces, with 256 bytes and four specials among them; fewer if the captions
            have not so many.
        """
        if size < _NUM_BYTES + len(SPECIALS):
            raise DataError(
                f"A subword vocabulary has {_NUM_BYTES + len(SPECIALS)} tokens or more, 256 bytes"
                f" and four specials, so that {size} are too few."
            )
        library = tokenizers_library()
        tokenizer = library.Tokenizer(library.models.BPE())
        # A blank in front of every word, also of the first, so that it is one word everywhere.
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(SPECIALS),
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        texts = (join_words(caption_words(caption)) for caption in captions)
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer.to_str())

    @classmethod
    def from_json(cls, content: dict[str, Any], path: str) -> "SubwordVocabulary":
        """Returns the vocabulary in the content of a file."""
        tokenizers_library()
        try:
            vocabulary = cls(json.dumps(content["tokenizer"]))
        except DataError:
            raise
        except Exception as error:  # the package raises the bare class
            raise DataError(
                f"{path} holds no tokenizer that can be read ({error}); expected a vocabulary that"
                " this project saved."
            ) from error
        first = [vocabulary._tokenizer.id_to_token(i) for i in range(len(SPECIALS))]
        if tuple(first) != SPECIALS:
            raise DataError(
                f"The tokenizer in {path} begins with the tokens {first}; expected"
                f" {' '.join(SPECIALS)}, as in a vocabulary that this project saved."
            )
        return vocabulary

    def _content(self) -> dict[str, Any]:
        return {"tokenizer": json.loads(self._tokenizer.to_str())}

    def ids(self, caption: str) -> list[int]:
        """Returns the numbers of a caption's pieces, without specials around them."""
        return self._tokenizer.encode(join_words(caption_words(caption))).ids

    def _join(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids).strip()


def tokenizers_library() -> Any:
    """Returns the package `tokenizers`.

    Raises:
      DataError: if it is not installed.
    """
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise DataError(
            "A subword vocabulary needs tokenizers, which is not installed: pip install tokenizers."
        ) from error
