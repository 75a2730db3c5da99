"""The scores of captions, on the scale of COCO's evaluation: 1.0 where papers print 100."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxvision.errors import InputError, check_choice
from jaxvision.metrics.bleu import bleu
from jaxvision.metrics.cider import Cider
from jaxvision.metrics.meteor import meteor
from jaxvision.metrics.meteor_data import has_meteor
from jaxvision.metrics.ngram import ReferenceNgrams
from jaxvision.metrics.ptb_tokenizer import ptb_tokenize
from jaxvision.metrics.rouge import rouge_l
from jaxvision.metrics.spice import spice

METRICS = ("bleu", "rouge_l", "cider", "meteor", "spice")


@dataclasses.dataclass(frozen=True)
class CaptionScores:
    """Scores by name: "bleu1" to "bleu4", "rouge_l", "cider", "meteor", "spice".

    Attributes:
      corpus: Scores of the corpus, one number each.
      each: Scores of each candidate, one number for each. Their mean is not the corpus' BLEU or
        METEOR.
    """

    corpus: dict[str, float]
    each: dict[str, np.ndarray]


def default_metrics() -> tuple[str, ...]:
    """Returns what needs no Java: METEOR is among them where its word lists are installed."""
    return METRICS[:4] if has_meteor() else METRICS[:3]


def score_captions(
    references: Sequence[Sequence[str]],
    candidates: Sequence[str],
    metrics: Sequence[str] | None = None,
    *,
    tokenize: bool = True,
) -> dict[str, float]:
    """Returns the scores of a corpus by name, such as "bleu4"; see `score_each_caption`."""
    return score_each_caption(references, candidates, metrics, tokenize=tokenize).corpus


def score_each_caption(
    references: Sequence[Sequence[str]],
    candidates: Sequence[str],
    metrics: Sequence[str] | None = None,
    *,
    tokenize: bool = True,
) -> CaptionScores:
    """Returns the scores of a corpus, and those of each candidate.

    They are those of pycocoevalcap 1.2 on the tokens of its own tokenizer.

    Args:
      references: Captions of each image, at least one.
      candidates: Captions to score, one for each image; "" is a caption that matches nothing.
      metrics: Names of the metrics, some of `METRICS`; None: `default_metrics()`. `meteor` and
        `spice` need the extra `caption-eval`, `spice` also Java and the models of its parser.
      tokenize: Whether the captions are text to be tokenized; False: their tokens are between
        blanks already.

    Raises:
      InputError: if a metric is unknown or something that it needs is missing, if there are not as
        many images as candidates, or if an image has no reference. Nothing is downloaded.

    Note:
      CIDEr weighs n-grams by how few images of the corpus have them. With one image it is exactly
      0, with a few it says little.
    """
    metrics = default_metrics() if metrics is None else metrics
    for metric in metrics:
        check_choice("A metric", metric, METRICS)
    _check(references, candidates)
    if tokenize:
        references = [[ptb_tokenize(caption) for caption in captions] for captions in references]
        candidates = [ptb_tokenize(caption) for caption in candidates]
    scores = CaptionScores({}, {})

    def add(name: str, each: np.ndarray, corpus: float | None = None) -> None:
        scores.each[name] = each
        scores.corpus[name] = float(np.mean(each) if corpus is None else corpus)

    # What may be missing comes first: the message should not take long.
    if "spice" in metrics:
        add("spice", spice(references, candidates))
    if "meteor" in metrics:
        corpus, each = meteor(references, candidates)
        add("meteor", each, corpus)
    if {"bleu", "cider"} & {*metrics}:
        ngrams = ReferenceNgrams(references)
        candidate_ngrams = ngrams.index.encode(candidates)
        if "bleu" in metrics:
            corpora, each = bleu(ngrams, candidate_ngrams, len(candidates))
            for n, corpus in enumerate(corpora):
                add(f"bleu{n + 1}", each[:, n], corpus)
        if "cider" in metrics:
            images = np.arange(len(candidates))
            add("cider", Cider(ngrams).score_ngrams(candidate_ngrams, images))
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
    for image, captions in enumerate(references):
        if isinstance(captions, str):
            raise InputError(
                f"Expected a list of references for each image, got the text {captions!r}."
            )
        if not len(captions):
            raise InputError(f"Image {image} (from 0) has no reference caption.")
