"""Retrieval: how often the texts of an image are found by it, and the image by its texts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

_BLOCK = 1024  # rows of the table of similarities that are held at once


def recall(
    images: Float[np.ndarray, "images channels"],
    texts: Float[np.ndarray, "texts channels"],
    owners: Int[np.ndarray, " texts"],
    *,
    ranks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Returns the share of queries that find what belongs to them among the first k.

    What is as similar as the right answer stands before it, so that a model which makes all vectors
    alike finds nothing.

    Args:
      images: Vectors of the images, of length 1.
      texts: Vectors of the texts, of length 1.
      owners: Place of the image that each text belongs to; every image has one text or more.
      ranks: Numbers k of answers that are looked at.

    Returns:
      {"text_r1": share of images with one of their texts among the first k, ..., "image_r1": share
      of texts with their image among the first k, ...}.

    Raises:
      ValueError: if an image has no text.
    """
    if set(owners.tolist()) != set(range(len(images))):
        raise ValueError("Every image must have a text, and every text an image.")
    of_images, of_texts = [], []
    for start in range(0, len(images), _BLOCK):
        block = slice(start, start + _BLOCK)
        similar = images[block] @ texts.T
        own = owners[None] == np.arange(len(images))[block, None]
        best = np.where(own, similar, -np.inf).max(axis=1, keepdims=True)
        of_images.append(np.sum(~own & (similar >= best), axis=1))
    for start in range(0, len(texts), _BLOCK):
        block = slice(start, start + _BLOCK)
        similar = texts[block] @ images.T
        rows = np.arange(len(similar))
        right = similar[rows, owners[block]]
        others = similar >= right[:, None]
        others[rows, owners[block]] = False
        of_texts.append(others.sum(axis=1))
    found = {"text": np.concatenate(of_images), "image": np.concatenate(of_texts)}
    return {
        f"{kind}_r{k}": float(np.mean(before < k)) for kind, before in found.items() for k in ranks
    }


def contrast_loss(
    images: Float[np.ndarray, "pairs channels"],
    texts: Float[np.ndarray, "pairs channels"],
    *,
    scale: float,
    bias: float | None,
) -> float:
    """Returns the loss that one batch of all pairs would have, see `metrics.image_text`.

    Args:
      images: Vectors of the images, of length 1.
      texts: Vectors of the text of each image.
      scale: Factor of the similarities.
      bias: Number that is added to the logits: then the loss is that of sigmoids; None: of softmax.
    """
    count, total = len(images), 0.0
    columns = np.full(count, -np.inf)
    for start in range(0, count, _BLOCK):
        logits = scale * (images[start : start + _BLOCK].astype(np.float64) @ texts.T)
        rows = np.arange(len(logits))
        if bias is None:
            total += float(np.sum(np.logaddexp.reduce(logits, axis=1)))
            total -= 2 * float(np.sum(logits[rows, start + rows]))
            columns = np.logaddexp(columns, np.logaddexp.reduce(logits, axis=0))
        else:
            logits += bias
            logits[rows, start + rows] *= -1
            total += float(np.sum(np.logaddexp(0.0, logits)))
    return (total + float(columns.sum())) / (2 * count) if bias is None else total / count
