"""The scores of captions, on the scale of COCO's evaluation: 1.0 where papers print 100."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxvision.errors import InputError, check_choice
from jaxvision.metrics.bleu import bleu
from jaxvision.metrics.cider import Cider
from jaxvision.metrics.ngram import ReferenceNgrams
from jaxvision.metrics.ptb_tokenizer import ptb_tokenize
from jaxvision.metrics.rouge import rouge_l

METRICS = ("bleu", "rouge_l", "cider")


@dataclasses.dataclass(frozen=True)
class CaptionScores:
    """Scores by name: "bleu1" to "bleu4", "rouge_l", "cider".

    Attributes:
      corpus: one number each.
      each: one number for each candidate. The mean of BLEU's is not the corpus' BLEU.
    """

    corpus: dict[str, float]
    each: dict[str, np.ndarray]


def score_captions(
    references: Sequence[Sequence[str]],
    candidates: Sequence[str],
    metrics: Sequence[str] = METRICS,
    *,
    tokenize: bool = True,
) -> dict[str, float]:
    """Returns the scores of a corpus; see `score_each_caption`."""
    return score_each_caption(references, candidates, metrics, tokenize=tokenize).corpus


def score_each_caption(
    references: Sequence[Sequence[str]],
    candidates: Sequence[str],
    metrics: Sequence[str] = METRICS,
    *,
    tokenize: bool = True,
) -> CaptionScores:
    """Returns the scores of a corpus, and those of each candidate.

    Args:
      references: captions of each image, at least one.
      candidates: one caption for each image; "" counts as a caption that matches nothing.
      metrics: `bleu`, `rouge_l`, `cider`.
      tokenize: whether captions are raw text; False: their tokens are between blanks already.

    Raises:
      InputError: if a metric is unknown, or there are not as many images as candidates, or no
        reference for an image.

    Note:
      CIDEr weighs n-grams by how few images of the corpus have them. With one image it is exactly
      0, with a few it says little.
    """
    for metric in metrics:
        check_choice("Each of the metrics", metric, METRICS)
    _check(references, candidates)
    if tokenize:
        references = [[ptb_tokenize(caption) for caption in captions] for captions in references]
        candidates = [ptb_tokenize(caption) for caption in candidates]
    scores = CaptionScores({}, {})

    def add(name: str, each: np.ndarray, corpus: float | None = None) -> None:
        scores.each[name] = each
        scores.corpus[name] = float(np.mean(each)) if corpus is None else float(corpus)

    if {"bleu", "cider"} & set(metrics):
        ngrams = ReferenceNgrams(references)
        candidate_ngrams = ngrams.index.encode(candidates)
        if "bleu" in metrics:
            corpus, each = bleu(ngrams, candidate_ngrams, len(candidates))
            for n, value in enumerate(corpus):
                add(f"bleu{n + 1}", each[:, n], value)
        if "cider" in metrics:
            add("cider", Cider(ngrams).score_ngrams(candidate_ngrams, np.arange(len(candidates))))
    if "rouge_l" in metrics:
        add("rouge_l", rouge_l(references, candidates))
    return scores


def _check(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> None:
    if len(references) != len(candidates):
        raise InputError(
            "Expected one candidate for each image, got references of "
            f"{len(references)} images and {len(candidates)} candidates."
        )
    if not len(candidates):
        raise InputError("There is no candidate to score.")
    if any(isinstance(captions, str) for captions in references):
        raise InputError("Expected a list of references for each image, got a single text.")
    for image, captions in enumerate(references):
        if not len(captions):
            raise InputError(f"Image {image} (from 0) has no reference caption.")
