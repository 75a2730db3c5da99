"""How captions are decoded: one frozen dataclass, with the names and meanings of Hugging Face."""

import dataclasses
import math

import numpy as np

from jaxvision.errors import InputError, check_choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """Greedy decoding unless `num_beams` > 1 (beam search) or `do_sample` (sampling).

    Every name that `transformers.GenerationConfig` has, too, means the same there. All lengths
    count <START> and <END>.

    Attributes:
      max_length: Greatest number of tokens of a row; one that gets no <END> ends here.
      start: Token that every row begins with.
      end: Token that ends a row.
      pad: Token that fills a row after its end.
      min_length: Number of tokens below which a row gets no <END>.
      suppress_tokens: Tokens that are never chosen.
      repetition_penalty: Penalty of the tokens that a row has already; > 1 makes them less likely;
        1: off.
      no_repeat_ngram_size: Size of the n-grams of which none occurs twice in a row; 0: off.
      num_return_sequences: Number of captions of an image: the best beams, or independent samples.
      num_beams: Number of hypotheses that a beam search keeps.
      length_penalty: Exponent of the length in the score of a caption; 0: the plain sum of its
        log-probabilities, which favours short captions. Above 0 favours longer ones.
      length_normalization: Norm that the sum is divided by, for n tokens after <START>: "power"
        (Hugging Face), n ** length_penalty, or "gnmt", ((5 + n) / 6) ** length_penalty.
      early_stopping: Rule for the end of an image's search: True stops it at `num_beams` finished
        captions; False also where no running one has a better score at its present length; "never"
        only where none can get a better one at any length.
      num_beam_groups: Number of groups of beams that are kept apart by `diversity_penalty`.
      diversity_penalty: Penalty taken off a token's log-probability for every beam of an earlier
        group that chose it at the same position; it stays in the score.
      do_sample: Whether each token is drawn, instead of the most likely one taken.
      temperature: Temperature of the drawing; below 1 sharpens.
      top_k: Number k of the most likely tokens that are drawn from; 0: from all.
      top_p: Probability that the smallest set of tokens to draw from must hold; 1: from all.

    Raises:
      InputError: if the settings do not fit together; the message says which.

    Source: Wu et al. 2016, Google's Neural Machine Translation System, eq. 14 ("gnmt"); Keskar et
      al. 2019, CTRL, section 4.1 (repetition penalty); Holtzman et al. 2020, The Curious Case of
      Neural Text Degeneration, section 3.1 (top_p); Vijayakumar et al. 2018, Diverse Beam Search.
    """

    max_length: int
    start: int = 1
    end: int = 2
    pad: int = 0
    min_length: int = 0
    suppress_tokens: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    num_return_sequences: int = 1
    num_beams: int = 1
    length_penalty: float = 1.0
    length_normalization: str = "power"
    early_stopping: bool | str = False
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        self._check_lengths_and_tokens()
        self._check_beams()
        self._check_sampling()

    def norms(self) -> np.ndarray:
        """Returns what a score is divided by, float64 [max_length], by tokens after <START>."""
        lengths = np.arange(self.max_length, dtype=np.float64)
        lengths[0] = 1.0  # no caption is empty, and 0 has no negative powers
        base = lengths if self.length_normalization == "power" else (5.0 + lengths) / 6.0
        return base**self.length_penalty

    def check_vocabulary(self, size: int) -> None:
        """Raises an InputError if a special token lies outside the model's vocabulary."""
        special = (self.start, self.end, self.pad, *self.suppress_tokens)
        if not all(0 <= token < size for token in special):
            raise InputError(
                f"The model knows the tokens 0 to {size - 1}, but start, end, pad and "
                f"suppress_tokens are {special}; decode with the vocabulary it was trained with."
            )

    def _check_lengths_and_tokens(self) -> None:
        _at_least("max_length", self.max_length, 2)
        _at_least("no_repeat_ngram_size", self.no_repeat_ngram_size, 0)
        _at_least("num_return_sequences", self.num_return_sequences, 1)
        if not 0 <= self.min_length <= self.max_length:
            raise InputError(
                f"min_length must be in [0, max_length], got {self.min_length} with a max_length "
                f"of {self.max_length}."
            )
        if not 0.0 < self.repetition_penalty < math.inf:
            raise InputError(
                f"repetition_penalty must be above 0 (1 is off), got {self.repetition_penalty}."
            )
        if self.end in self.suppress_tokens:
            raise InputError("suppress_tokens must not hold the end token: no caption could end.")

    def _check_beams(self) -> None:
        _at_least("num_beams", self.num_beams, 1)
        _at_least("num_beam_groups", self.num_beam_groups, 1)
        check_choice("length_normalization", self.length_normalization, ("power", "gnmt"))
        if not math.isfinite(self.length_penalty):
            raise InputError(f"length_penalty must be finite, got {self.length_penalty}.")
        if self.early_stopping not in (False, True, "never"):
            raise InputError(
                f"early_stopping must be False, True or 'never', got {self.early_stopping!r}."
            )
        if self.num_beams % self.num_beam_groups:
            raise InputError(
                f"num_beams must be a multiple of num_beam_groups, got {self.num_beams} beams for "
                f"{self.num_beam_groups} groups."
            )
        if (self.num_beam_groups > 1) != (self.diversity_penalty > 0.0):
            raise InputError(
                "Diverse beams need num_beam_groups above 1 and diversity_penalty above 0, both or "
                f"neither; got {self.num_beam_groups} groups and {self.diversity_penalty}."
            )
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise InputError(
                f"num_return_sequences is {self.num_return_sequences}, but there are num_beams = "
                f"{self.num_beams}; raise num_beams, or set do_sample=True for several samples."
            )

    def _check_sampling(self) -> None:
        _at_least("top_k", self.top_k, 0)
        if not 0.0 < self.temperature < math.inf:
            raise InputError(f"temperature must be above 0, got {self.temperature}.")
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p must be in (0, 1], got {self.top_p}.")
        if self.do_sample and self.num_beams > 1:
            raise InputError(
                f"do_sample draws independent captions, so num_beams must be 1, got "
                f"{self.num_beams}; num_return_sequences asks for several."
            )
        if not self.do_sample and (self.temperature, self.top_k, self.top_p) != (1.0, 0, 1.0):
            raise InputError(
                "temperature, top_k and top_p only act where tokens are drawn; set do_sample=True."
            )


def _at_least(option: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{option} must be at least {least}, got {value}.")
