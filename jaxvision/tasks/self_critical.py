"""Self-critical training: captions that the model samples, weighted by how well they score."""

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.data.captions.vocabulary import caption_words
from jaxvision.decode.generate import generate
from jaxvision.decode.settings import DecodeSettings
from jaxvision.errors import InputError
from jaxvision.metrics.cider import Cider
from jaxvision.metrics.losses import token_cross_entropy
from jaxvision.tasks.caption_scores import model_inputs
from jaxvision.tasks.captioning import Captioning, shift

logger = logging.getLogger(__name__)

# The n-grams of all captions are held in memory; COCO's training split has 118,287 images.
_MOST_IMAGES = 200_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfCritical(Captioning):
    """Raises the probability of samples that score above the other samples of their image.

    A second stage, for a captioner that was trained on the words themselves: the loss of a sample
    is its negative log-probability times its advantage, CIDEr-D less the mean of the image's other
    samples. The scores are computed on the host, which each step waits for.

    Attributes:
      sampling: Settings of the sampling, with `num_return_sequences` samples of each image.
      scorer: Scorer of CIDEr-D over the captions of the training split.
      places: Place of each image id in the scorer.

    Source: Rennie et al. 2017, Self-critical Sequence Training, eq. 6; the baseline: Luo 2020, A
      Better Variant of Self-Critical Sequence Training, eq. 4.
    """

    sampling: DecodeSettings
    scorer: Cider
    places: dict[int, int]

    @classmethod
    def of(cls, task: Captioning, num_samples: int) -> "SelfCritical":
        """Returns the second stage of a task.

        Args:
          task: Captioning with its vocabulary and its data.
          num_samples: Number of samples of each image, at least 2.

        Raises:
          InputError: for fewer than two samples, in a run of several processes, or for more images
            than the captions of which fit into memory.
        """
        if num_samples < 2:
            raise InputError(
                "--config.caption.self_critical_samples must be 0 (off) or at least 2, as each "
                f"sample is compared with the others, got {num_samples}."
            )
        if jax.process_count() > 1:
            raise InputError(
                "Self-critical training scores its samples in one process: start it on one machine."
            )
        vocabulary, settings = task.words()
        source = task.data.train_source
        images = range(len(source))
        if len(images) > _MOST_IMAGES:
            raise InputError(
                f"Self-critical training holds the captions of at most {_MOST_IMAGES:,} training "
                f"images, there are {len(images):,}: train on a part of them (of the shapes with "
                "--config.data.shapes.num_train=100000)."
            )
        logger.info("Indexing the captions of %s training images for CIDEr.", f"{len(images):,}")
        return cls(
            pad=vocabulary.pad,
            vocabulary=vocabulary,
            settings=settings,
            data=task.data,
            sampling=dataclasses.replace(
                settings, num_beams=1, do_sample=True, num_return_sequences=num_samples
            ),
            scorer=Cider([[_words(c) for c in source.captions(i)] for i in images]),
            places={source.image_id(i): i for i in images},
        )

    def loss(self, model: Any, batch: dict, *, rngs: Any) -> tuple[jax.Array, dict]:
        """Returns the loss of a batch, and the mean score of its samples as `cider`."""
        count, ids = self.sampling.num_return_sequences, batch["image_id"]
        fixed = jax.tree.map(jax.lax.stop_gradient, model)
        samples = generate(
            fixed,
            fixed.encode(model_inputs(batch)),
            self.sampling,
            key=rngs.dropout(),
            image_ids=ids,
        ).tokens  # [B, count, T]
        shape = jax.ShapeDtypeStruct(samples.shape[:2], jnp.float32)
        scores = jax.pure_callback(self._score, shape, samples, ids)
        others = (jnp.sum(scores, axis=1, keepdims=True) - scores) / (count - 1)
        advantage = (scores - others).reshape(-1, 1)

        memory = jnp.repeat(model.encode(model_inputs(batch), train=True, rngs=rngs), count, axis=0)
        inputs, targets = shift(samples.reshape(-1, samples.shape[-1]))
        logits = model.decode_tokens(memory, inputs, train=True, rngs=rngs)
        valid = targets != self.pad
        losses = jnp.where(valid, token_cross_entropy(logits, targets), 0.0)
        loss = jnp.sum(advantage * losses) / jnp.maximum(jnp.sum(valid), 1)
        return loss, {"cider": jnp.mean(scores)}

    def _score(self, samples: Any, image_ids: Any) -> np.ndarray:
        """Returns CIDEr-D of each sample, float32 [batch, samples]."""
        samples, image_ids = np.asarray(samples), np.asarray(image_ids)
        vocabulary, _ = self.words()
        count = samples.shape[1]
        captions = [_words(vocabulary.decode(row)) for row in samples.reshape(-1, samples.shape[2])]
        places = [self.places[int(image_id)] for image_id in image_ids for _ in range(count)]
        return self.scorer.score(captions, places).reshape(-1, count).astype(np.float32)


def _words(caption: str) -> str:
    return " ".join(caption_words(caption))
