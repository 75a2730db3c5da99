"""config.caption: the words of captions, and how captions are decoded."""

import dataclasses

from jaxvision.errors import check_choice

TOKENS = ("words", "subwords")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionOptions:
    """The options of config.caption; configs/common.py has their units and meanings."""

    vocabulary: str = ""
    tokens: str = "words"
    min_count: int = 5
    vocabulary_size: int = 4_000
    max_length: int = 30
    strict_length: bool = False
    num_beams: int = 1
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    self_critical_samples: int = 0

    def __post_init__(self):
        check_choice("--config.caption.tokens", self.tokens, TOKENS)
