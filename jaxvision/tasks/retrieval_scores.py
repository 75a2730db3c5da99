"""Evaluation of a pair of encoders: which text finds which image, over a whole split."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Float

from jaxvision.data.captions.caption_source import CaptionSource
from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.metrics.retrieval import contrast_loss, recall
from jaxvision.tasks.caption_scores import model_inputs
from jaxvision.tasks.task import OpenRun, Weights

METRICS = (
    *(f"{kind}_r{k}" for kind in ("text", "image") for k in (1, 5, 10)),
    "loss",
)
_TEXTS = 256  # that are encoded at once


class RetrievalScores:
    """Retrieval over a split, whatever the batch size, the devices and the processes.

    Args:
      run: Run that is evaluated.
      source: Evaluation split, with all texts of each image.
      vocabulary: Vocabulary of the tokens.
      max_length: Number of tokens of a text.
    """

    def __init__(
        self, run: OpenRun, source: CaptionSource, vocabulary: Vocabulary, max_length: int
    ):
        self._source, self._text_step = source, make_text_step(run.graphdef)
        self._words = vocabulary, max_length
        preprocess_fn = run.preprocess_fn

        @jax.jit
        def image_step(params: Any, batch_stats: Any, batch: dict) -> jax.Array:
            model: Any = nnx.merge(run.graphdef, params, batch_stats, copy=True)
            if "image" in batch:
                batch = dict(batch, image=preprocess_fn(batch["image"]))
            return model.embed_images(model_inputs(batch))

        self._image_step = image_step

    def __call__(self, weights: dict[str, Weights], batches: Iterable[dict]) -> dict[str, float]:
        """Returns the recalls and the loss of each set of weights.

        Args:
          weights: Sets of weights, {prefix: (params, batch_stats)}.
          batches: Device batches; every process must bring the same number.

        Returns:
          {"<prefix>/text_r1": share of images that find one of their texts first, ...,
          "<prefix>/image_r1": share of texts that find their image first, ..., "<prefix>/loss": the
          loss of each image's first text in one batch of the whole split}.

        Raises:
          ValueError: if there is no valid example.
        """
        found: dict[str, dict[int, np.ndarray]] = {prefix: {} for prefix in weights}
        for batch in batches:
            for prefix, tree in weights.items():
                rows = (self._image_step(*tree, batch), batch["image_id"], batch["mask"])
                gathered = multihost_utils.process_allgather(rows, tiled=True)
                vectors, ids, valid = (np.asarray(values) for values in gathered)
                found[prefix] |= dict(zip(ids[valid].tolist(), vectors[valid], strict=True))
        results = {}
        for prefix, tree in weights.items():
            scores = self._scores(tree, found[prefix])
            results |= {f"{prefix}/{name}": value for name, value in scores.items()}
        return results

    def _scores(self, weights: Weights, images: dict[int, np.ndarray]) -> dict[str, float]:
        source = self._source
        there = [i for i in range(len(source)) if source.image_id(i) in images]
        if not there:
            raise ValueError("The evaluation split has no valid example.")
        texts = [source.captions(index) for index in there]
        owners = np.repeat(np.arange(len(there)), [len(each) for each in texts])
        flat = [text for each in texts for text in each]
        vectors = text_vectors(self._text_step, weights, flat, *self._words)
        pictures = np.stack([images[source.image_id(index)] for index in there])
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        scale, bias = _scale_and_bias(weights)
        loss = contrast_loss(pictures, vectors[first], scale=scale, bias=bias)
        return recall(pictures, vectors, owners) | {"loss": loss}


def _scale_and_bias(weights: Weights) -> tuple[float, float | None]:
    params, _ = weights
    scale = float(np.exp(jax.device_get(params["logit_scale"])))
    bias = params.get("logit_bias")
    return scale, None if bias is None else float(jax.device_get(bias))


def make_text_step(graphdef: nnx.GraphDef) -> Callable[[Any, Any, Any], jax.Array]:
    """Returns the jitted function (params, batch_stats, tokens) -> vectors, for `text_vectors`.

    Args:
      graphdef: Graph definition of the model.
    """

    @jax.jit
    def step(params: Any, batch_stats: Any, tokens: Any) -> jax.Array:
        model: Any = nnx.merge(graphdef, params, batch_stats, copy=True)
        return model.embed_texts(tokens)

    return step


def text_vectors(
    step: Callable[[Any, Any, Any], jax.Array],
    weights: Weights,
    texts: Sequence[str],
    vocabulary: Vocabulary,
    max_length: int,
) -> Float[np.ndarray, "texts channels"]:
    """Returns the vector of each text, of length 1; every process computes all.

    Args:
      step: Function of `make_text_step`.
      weights: Weights of the model, (params, batch_stats).
      texts: Texts to encode.
      vocabulary: Vocabulary of the tokens.
      max_length: Number of tokens of a text.
    """
    tokens = np.stack([vocabulary.encode(text, max_length) for text in texts])
    size = min(_TEXTS, len(tokens))
    rows = []
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        padded = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
        vectors = multihost_utils.process_allgather(step(*weights, padded), tiled=True)
        rows.append(np.asarray(vectors)[: len(part)])
    return np.concatenate(rows)
