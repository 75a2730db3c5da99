"""The file of a vocabulary, whatever its kind."""

import os
import pathlib

from jaxvision.data.captions.subword import SubwordVocabulary
from jaxvision.data.captions.text_tokenizer import TextTokenizer, read_tokenizer
from jaxvision.data.captions.vocabulary import WANTED, Vocabulary
from jaxvision.data.json_file import read_json


def load_vocabulary(path: str) -> Vocabulary:
    """Returns the vocabulary in a file or folder.

    Args:
      path: Path of what `Vocabulary.save` wrote, of words or of subwords, of CS231n's, or of a
        tokenizer that belongs to a published text encoder, see `read_tokenizer`.

    Raises:
      DataError: if the file is missing or damaged, or lacks the specials.
    """
    place = pathlib.Path(os.path.expanduser(path))
    if place.is_dir() or (place.is_file() and place.name.endswith((".txt", ".txt.gz"))):
        return read_tokenizer(place)
    content = read_json(path, wanted=WANTED)
    if "text_tokenizer" in content:
        return TextTokenizer.from_json(content, path)
    if "model" in content and "words" not in content:  # as the package tokenizers writes it
        return read_tokenizer(place)
    kind = SubwordVocabulary if "tokenizer" in content else Vocabulary
    return kind.from_json(content, path)
