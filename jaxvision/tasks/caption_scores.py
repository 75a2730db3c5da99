"""Evaluation of a captioner: the loss of the true words, and the scores of its own captions."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Array, Float

from jaxvision.data.captions.caption_source import CaptionSource
from jaxvision.data.captions.vocabulary import Vocabulary, caption_words
from jaxvision.decode.decoder import Decoded
from jaxvision.decode.generate import generate
from jaxvision.decode.settings import DecodeSettings
from jaxvision.metrics.caption import score_captions
from jaxvision.tasks.sums import divide_sums

SCORES = ("bleu", "rouge_l", "cider")


def model_inputs(batch: dict) -> Float[Array, "batch *space channels"]:
    """Returns the normalised images of a batch, or the features in their place."""
    return batch["features"] if "features" in batch else batch["image"]


def make_caption_step(
    graphdef: nnx.GraphDef, settings: DecodeSettings, *, preprocess_fn: Callable
) -> Callable[[Any, Any, dict], Decoded]:
    """Returns the jitted function (params, batch_stats, batch) -> captions of every image."""

    def caption_step(params: Any, batch_stats: Any, batch: dict) -> Decoded:
        model: Any = nnx.merge(graphdef, params, batch_stats, copy=True)
        if "image" in batch:
            batch = dict(batch, image=preprocess_fn(batch["image"]))
        return generate(model, model.encode(model_inputs(batch)), settings)

    return jax.jit(caption_step)


def evaluate_captions(
    eval_step: Callable[[Any, Any, dict], dict],
    caption_step: Callable[[Any, Any, dict], Decoded],
    weights: dict[str, tuple[Any, Any]],
    batches: Iterable[dict],
    *,
    vocabulary: Vocabulary,
    source: CaptionSource,
) -> dict[str, float]:
    """Returns the mean of every metric, and the scores of the captions, for each set of weights.

    Args:
      eval_step: Function of `make_eval_step`.
      caption_step: Function of `make_caption_step`.
      weights: Sets of weights, {prefix: (params, batch_stats)}.
      batches: Device batches; every process must bring the same number.
      vocabulary: Words of the tokens.
      source: Evaluation split, with the true captions.

    Returns:
      {"<prefix>/loss", ".../perplexity", ".../token_accuracy", ".../bleu1" to "bleu4",
      ".../rouge_l", ".../cider" (1.0 is 100 in papers), ".../exact_match": the share of captions
      that are word for word one of the references}.

    Raises:
      ValueError: if there is no valid example.
    """
    totals: dict | None = None
    written: dict[str, dict[int, str]] = {prefix: {} for prefix in weights}
    for batch in batches:
        sums = {}
        for prefix, tree in weights.items():
            sums[prefix] = eval_step(*tree, batch)
            tokens = caption_step(*tree, batch).tokens[:, 0]
            written[prefix] |= _captions(tokens, batch, vocabulary)
        totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
    results = divide_sums(totals)
    references = {source.image_id(i): list(source.captions(i)) for i in range(len(source))}
    for prefix, captions in written.items():
        results[f"{prefix}/perplexity"] = math.exp(min(results[f"{prefix}/loss"], 80.0))
        wanted = [references[image_id] for image_id in captions]
        scores = score_captions(wanted, list(captions.values()), metrics=SCORES)
        scores["exact_match"] = _exact_match(wanted, list(captions.values()))
        results |= {f"{prefix}/{name}": float(value) for name, value in scores.items()}
    return results


def _captions(tokens: jax.Array, batch: dict, vocabulary: Vocabulary) -> dict[int, str]:
    """Returns {image id: caption} of all processes' valid images."""
    rows = (tokens, batch["image_id"], batch["mask"])
    gathered = multihost_utils.process_allgather(rows, tiled=True)
    words, ids, valid = (np.asarray(values) for values in gathered)
    return {
        int(image_id): vocabulary.decode(row)
        for row, image_id in zip(words[valid], ids[valid], strict=True)
    }


def _exact_match(references: list[list[str]], captions: list[str]) -> float:
    matches = [
        caption_words(caption) in map(caption_words, wanted)
        for wanted, caption in zip(references, captions, strict=True)
    ]
    return sum(matches) / len(matches)
