"""Captioning: what a batch of images and their captions means."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxvision.data.captions.text_tokenizer import TextTokenizer
from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.decode.settings import DecodeSettings
from jaxvision.errors import InputError
from jaxvision.metrics.losses import token_cross_entropy
from jaxvision.options.options import Options
from jaxvision.plots.caption_pictures import plot_captions
from jaxvision.tasks.caption_scores import evaluate_captions, make_caption_step, model_inputs
from jaxvision.tasks.captioned import Captioned, open_captioned
from jaxvision.tasks.classification import smoothing_over_all
from jaxvision.tasks.samples import Seen, look_at
from jaxvision.tasks.task import (
    Metrics,
    OpenRun,
    Weights,
    check_plain_evaluation,
    drawn,
)

NUM_SAMPLES = 12  # images in the picture of captions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captioning(Captioned):
    """Loss and exact evaluation of a model that writes captions, given the true words before.

    Attributes:
      pad: Token that fills a row, of which nothing is asked.
      label_smoothing: Probability mass spread evenly over the vocabulary, in [0, 1).
      settings: Settings of decoding captions in an evaluation; None where only losses are computed.
    """

    name = "captioning"
    metrics = ("cider", "bleu4", "rouge_l", "exact_match", "token_accuracy", "loss")

    pad: int = 0
    label_smoothing: float = 0.0
    settings: DecodeSettings | None = None

    @classmethod
    def _open(cls, options: Options, vocabulary: Vocabulary | None) -> "Captioning":
        _check_options(options)
        opened = open_captioned(options, vocabulary)
        vocabulary, caption = opened.vocabulary, options.caption
        if isinstance(vocabulary, TextTokenizer):
            raise InputError(
                f"--config.caption.vocabulary={caption.vocabulary} is the tokenizer of a text "
                "encoder, which a captioner does not write with: leave it out, and choose "
                "--config.caption.tokens=words or subwords."
            )
        return cls(
            pad=vocabulary.pad,
            label_smoothing=smoothing_over_all(options.loss, len(vocabulary)),
            vocabulary=vocabulary,
            settings=DecodeSettings(
                max_length=caption.max_length,
                num_beams=caption.num_beams,
                length_penalty=caption.length_penalty,
                repetition_penalty=caption.repetition_penalty,
                no_repeat_ngram_size=caption.no_repeat_ngram_size,
                suppress_tokens=(vocabulary.pad, vocabulary.start, vocabulary.unk),
            ),
            data=opened.data,
        )

    def prepare(self, batch: dict) -> dict:
        """Adds `token_weight` [B, T-1]: its mean with the losses is that of all valid tokens.

        It is computed over the whole batch, so that micro-batches with fewer words than others
        count less, and several of them give the update of one.
        """
        valid = self._valid(batch).astype(jnp.float32)
        share = valid.shape[0] / jnp.maximum(jnp.sum(valid), 1.0)
        return dict(batch, token_weight=valid * share)

    def loss(self, model: Any, batch: dict, *, rngs: Any) -> tuple[jax.Array, dict]:
        """Returns the mean loss of the valid tokens and its float32 scalar metrics."""
        inputs, targets = shift(batch["tokens"])
        logits = model(model_inputs(batch), inputs, train=True, rngs=rngs)
        losses = token_cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        correct = jnp.argmax(logits, axis=-1) == targets
        weight = batch["token_weight"]

        def mean(values: jax.Array) -> jax.Array:
            return jnp.mean(jnp.sum(jnp.where(weight > 0, values * weight, 0.0), axis=-1))

        return mean(losses), {"token_accuracy": mean(correct)}

    def evaluate(self, model: Any, batch: dict) -> dict:
        """Returns {metric: (sum, count)} over the valid tokens of a batch."""
        inputs, targets = shift(batch["tokens"])
        logits = model(model_inputs(batch), inputs)
        valid = self._valid(batch)
        values = {
            "loss": token_cross_entropy(logits, targets),
            "token_accuracy": jnp.argmax(logits, axis=-1) == targets,
        }
        count = jnp.sum(valid)
        # where, not multiplication: padding may hold anything, also a non-finite loss.
        return {
            name: (jnp.sum(jnp.where(valid, value, 0.0)), count) for name, value in values.items()
        }

    def evaluator(self, run: OpenRun) -> Callable[[dict[str, Weights]], Metrics]:
        """Returns the function from sets of weights to the losses and the scores of captions."""
        vocabulary, settings = self.words()
        eval_step = run.eval_step()
        caption_step = make_caption_step(run.graphdef, settings, preprocess_fn=run.preprocess_fn)
        return lambda weights: evaluate_captions(
            eval_step,
            caption_step,
            weights,
            run.eval_device_batches(),
            vocabulary=vocabulary,
            source=self.data.eval_source,
        )

    def draw(self, run: OpenRun, weights: Weights, workdir: pathlib.Path) -> str | None:
        """Draws evaluation images with what the model says, and with a true caption."""
        if not self.data.has_images:  # features show nothing
            return None
        vocabulary, _ = self.words()
        source = self.data.eval_source
        records = drawn(len(source), NUM_SAMPLES)
        seen = self.caption(run, weights, records)
        images = seen.images(seen.positions.tolist())
        if jax.process_index() == 0:
            plot_captions(
                list(images),
                [
                    "corrupt image" if is_corrupt else vocabulary.decode(row)
                    for row, is_corrupt in zip(seen.outputs, seen.corrupt, strict=True)
                ],
                [source.captions(records[i])[0] for i in seen.positions],
                workdir / "captions.png",
            )
        return "captions.png"

    def caption(self, run: OpenRun, weights: Weights, records: Sequence[int]) -> Seen:
        """Returns the tokens that the model says of some evaluation images.

        Args:
          run: Run of the model.
          weights: Weights of the model, (params, batch_stats).
          records: Indices of the images in the evaluation split.
        """
        _, settings = self.words()
        step = make_caption_step(run.graphdef, settings, preprocess_fn=run.preprocess_fn)
        return look_at(
            run, self.eval_subset(records), lambda batch: step(*weights, batch).tokens[:, 0]
        )

    def words(self) -> tuple[Vocabulary, DecodeSettings]:
        """Returns the vocabulary and the settings of decoding.

        Raises:
          ValueError: if the task was made without them.
        """
        if self.vocabulary is None or self.settings is None:
            raise ValueError("This task was made without a vocabulary: use Captioning.open.")
        return self.vocabulary, self.settings

    def _valid(self, batch: dict) -> Bool[Array, "batch targets"]:
        _, targets = shift(batch["tokens"])
        return (targets != self.pad) & batch["mask"][:, None]


def shift(
    tokens: Int[Array, "batch length"],
) -> tuple[Int[Array, "batch targets"], Int[Array, "batch targets"]]:
    """Returns what a decoder is given and what it shall say: the one place that shifts by one."""
    return tokens[:, :-1], tokens[:, 1:]


def _check_options(options: Options) -> None:
    if options.augment.mixes:
        raise InputError(
            "Captions cannot be mixed as labels can: set --config.augment.mixup_alpha=0 "
            "--config.augment.cutmix_alpha=0."
        )
    loss = options.loss
    if loss.class_weights != "none" or loss.logit_adjustment:
        raise InputError(
            "Words are no classes to balance: leave --config.loss.class_weights and "
            "--config.loss.logit_adjustment out."
        )
    if loss.name != "softmax_cross_entropy" or options.distill.teacher_weights:
        raise InputError(
            "Captions are learned by --config.loss.name=softmax_cross_entropy and without a "
            "teacher: leave --config.loss.name and --config.distill.teacher_weights out."
        )
    check_plain_evaluation(options)
