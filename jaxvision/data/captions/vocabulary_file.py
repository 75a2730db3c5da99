"""The file of a vocabulary, whatever its kind."""

from jaxvision.data.captions.subword import SubwordVocabulary
from jaxvision.data.captions.vocabulary import WANTED, Vocabulary
from jaxvision.data.json_file import read_json


def load_vocabulary(path: str) -> Vocabulary:
    """Returns the vocabulary that `Vocabulary.save` wrote, of words or of subwords, or CS231n's.

    Raises:
      DataError: if the file is missing or damaged, or lacks the specials.
    """
    content = read_json(path, wanted=WANTED)
    kind = SubwordVocabulary if "tokenizer" in content else Vocabulary
    return kind.from_json(content, path)
