"""Images and texts that belong together: each shall find the other in a batch, and in a split."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.errors import InputError
from jaxvision.metrics.image_text import LOSSES, own_text_first
from jaxvision.options.loss import LossOptions
from jaxvision.options.options import Options
from jaxvision.plots.caption_pictures import plot_captions
from jaxvision.tasks.caption_scores import model_inputs
from jaxvision.tasks.captioned import Captioned, open_captioned
from jaxvision.tasks.retrieval_scores import (
    METRICS,
    RetrievalScores,
    make_text_step,
    text_vectors,
)
from jaxvision.tasks.samples import look_at
from jaxvision.tasks.task import (
    Metrics,
    OpenRun,
    Weights,
    check_contrast,
    check_plain_evaluation,
    drawn,
)

NUM_SAMPLES = 12  # images in the picture
_NUM_TEXTS = 500  # that each of them is to find its own among


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTextContrast(Captioned):
    """The contrast of a batch in training, retrieval over the whole split in an evaluation.

    Source: Radford et al. 2021, figure 3; Zhai et al. 2023, algorithm 1.
    """

    name: ClassVar[str] = "image_text"
    metrics: ClassVar[tuple[str, ...]] = METRICS

    @classmethod
    def _open(cls, options: Options, vocabulary: Vocabulary | None) -> "ImageTextContrast":
        _check_options(options)
        opened = open_captioned(options, vocabulary)
        data, end = opened.data, opened.vocabulary.end
        data = dataclasses.replace(data, model_options={**data.model_options, "end_token": end})
        return cls(vocabulary=opened.vocabulary, data=data)

    def loss(self, model: Any, batch: dict, *, rngs: nnx.Rngs) -> tuple[jax.Array, dict]:
        """Returns the loss of a training batch, its share of right images, and the scale."""
        logits = model(model_inputs(batch), batch["tokens"], train=True, rngs=rngs)
        loss = LOSSES[model.config.loss](logits, batch["mask"])
        accuracy = own_text_first(logits, batch["mask"])
        return loss, {"accuracy": accuracy, "scale": jnp.exp(model.logit_scale[...])}

    def evaluate(self, model: Any, batch: dict) -> dict:
        """Returns the loss of one batch; an evaluation has that of the whole split instead."""
        logits, valid = model(model_inputs(batch), batch["tokens"]), batch["mask"]
        count = jnp.sum(valid)
        return {"loss": (LOSSES[model.config.loss](logits, valid) * count, count)}

    def evaluator(self, run: OpenRun) -> Callable[[dict[str, Weights]], Metrics]:
        """Returns the function from sets of weights to retrieval over the evaluation split."""
        scores = RetrievalScores(run, self.data.eval_source, self.tokens(), self._length)
        return lambda weights: scores(weights, run.eval_device_batches())

    @property
    def _length(self) -> int:
        return self.data.model_options["max_length"]

    def draw(self, run: OpenRun, weights: Weights, workdir: pathlib.Path) -> str | None:
        """Draws evaluation images with the text that goes with them best, and with their own."""
        if not self.data.has_images:  # features show nothing
            return None
        source = self.data.eval_source
        records = drawn(len(source), NUM_SAMPLES)
        others = [index for index in drawn(len(source), _NUM_TEXTS) if index not in records]
        texts = [source.captions(index)[0] for index in [*records, *others][:_NUM_TEXTS]]
        vectors = text_vectors(
            make_text_step(run.graphdef), weights, texts, self.tokens(), self._length
        )

        @jax.jit
        def step(batch: dict) -> jax.Array:
            model: Any = nnx.merge(run.graphdef, *weights, copy=True)
            images = model.embed_images(run.preprocess_fn(batch["image"]))
            return jnp.argmax(images @ vectors.T, axis=1)

        seen = look_at(run, self.eval_subset(records), step)
        images = seen.images(seen.positions.tolist())
        if jax.process_index() == 0:
            plot_captions(
                list(images),
                [
                    "corrupt image" if is_corrupt else texts[int(best)]
                    for best, is_corrupt in zip(seen.outputs, seen.corrupt, strict=True)
                ],
                [texts[position] for position in seen.positions],
                workdir / "captions.png",
            )
        return "captions.png"


def _check_options(options: Options) -> None:
    check_contrast(options)
    if options.accumulate_steps > 1:
        raise InputError(
            "Images and texts are compared over the whole batch, which micro-batches would cut: "
            "set --config.accumulate_steps=1, and spread a large batch over more devices."
        )
    if options.augment.mixes:
        raise InputError(
            "Images with texts cannot be mixed as labelled ones can: set "
            "--config.augment.mixup_alpha=0 --config.augment.cutmix_alpha=0."
        )
    if options.loss != LossOptions() or options.distill.teacher_weights:
        raise InputError(
            "Images and texts have a loss of their own, --config.model.kwargs.loss=softmax or "
            "sigmoid, without a teacher: leave --config.loss and --config.distill.teacher_weights "
            "out."
        )
    check_plain_evaluation(options)
