"""Captioning: what a batch of images and their captions means."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxvision.data.captions.caption_source import CaptionSource, CaptionSubset
from jaxvision.data.captions.caption_target import CaptionTarget, check_captions
from jaxvision.data.captions.features import ENCODER_FILE, CaptionedFeatures
from jaxvision.data.captions.open_captions import open_caption_source
from jaxvision.data.captions.subword import SubwordVocabulary
from jaxvision.data.captions.vocabulary import Vocabulary, check_vocabulary
from jaxvision.data.captions.vocabulary_file import load_vocabulary
from jaxvision.data.sources.share import held_out
from jaxvision.decode.settings import DecodeSettings
from jaxvision.errors import InputError, shorten
from jaxvision.files import read_json, write_json
from jaxvision.interop.run_folder import VOCABULARY_FILE
from jaxvision.metrics.losses import token_cross_entropy
from jaxvision.options.caption import CaptionOptions
from jaxvision.options.options import Options
from jaxvision.plots.caption_pictures import plot_captions
from jaxvision.plots.previews import caption_title
from jaxvision.tasks.caption_scores import evaluate_captions, make_caption_step, model_inputs
from jaxvision.tasks.classification import smoothing_over_all
from jaxvision.tasks.samples import Seen, look_at
from jaxvision.tasks.task import (
    Metrics,
    OpenRun,
    Task,
    TaskData,
    Weights,
    check_plain_evaluation,
    drawn,
)

NUM_SAMPLES = 12  # images in the picture of captions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captioning(Task):
    """Loss and exact evaluation of a model that writes captions, given the true words before.

    Attributes:
      pad: Token that fills a row, of which nothing is asked.
      label_smoothing: Probability mass spread evenly over the vocabulary, in [0, 1).
      vocabulary: Words of the tokens; None where only losses are computed.
      settings: Settings of decoding captions in an evaluation; None where only losses are computed.
      data: Records of the run.
    """

    name = "captioning"
    metrics = ("cider", "bleu4", "rouge_l", "exact_match", "token_accuracy", "loss")

    pad: int = 0
    label_smoothing: float = 0.0
    vocabulary: Vocabulary | None = None
    settings: DecodeSettings | None = None
    data: TaskData = TaskData()

    @classmethod
    def open(cls, options: Options) -> "Captioning":
        """Opens captioned images; see `Task.open`."""
        return cls._open(options, None)

    @classmethod
    def reopen(cls, options: Options, workdir: pathlib.Path, *, training: bool) -> "Captioning":
        """Opens captioned images; an evaluation takes the run's vocabulary."""
        path = workdir / VOCABULARY_FILE
        if training or not path.exists():
            return cls._open(options, None)
        return cls._open(options, load_vocabulary(str(path)))

    @classmethod
    def _open(cls, options: Options, vocabulary: Vocabulary | None) -> "Captioning":
        _check_options(options)
        data, caption = options.data, options.caption
        if held_out(data.eval_split) is not None:
            raise InputError(
                f"--config.data.eval_split={data.eval_split} is a share of labelled images;"
                " captions are evaluated on a split of their own."
            )
        open_split = functools.partial(
            open_caption_source,
            data.name,
            path=data.path,
            images=data.images,
            features=data.features,
            skip_missing=data.skip_missing,
            image_size=data.image_size,
            shapes=dataclasses.asdict(data.shapes),
        )
        train_source: Any = ()
        if vocabulary is None:
            train_source = open_split(data.train_split)
            vocabulary = _open_vocabulary(caption, train_source)
            check_captions(
                train_source, vocabulary, caption.max_length, strict=caption.strict_length
            )
        eval_source = open_split(data.eval_split)
        _check_same_encoder(_encoder(train_source), _encoder(eval_source), where="training split")
        model_options: dict[str, Any] = {"max_length": caption.max_length}
        features = eval_source[0].get("features")
        if features is not None:
            model_options |= {"encoder": None, "feature_width": features.shape[-1]}
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
            data=TaskData(
                train_source,
                eval_source,
                len(vocabulary),
                model_options,
                CaptionTarget(vocabulary, caption.max_length),
                has_images=features is None,
            ),
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

    def check_start(self, path: str) -> None:
        """Checks that a run to start from has this vocabulary."""
        if path:
            self._check_same_vocabulary(pathlib.Path(path).expanduser())

    def check_kept(self, workdir: pathlib.Path) -> None:
        """Checks that the run's vocabulary is this one, and the encoder of its features."""
        self._check_same_vocabulary(workdir)
        path = workdir / ENCODER_FILE
        try:
            kept = read_json(path) if path.exists() else None
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}): restore it.") from error
        _check_same_encoder(kept, _encoder(self.data.eval_source), where=f"run in {workdir}")

    def keep(self, workdir: pathlib.Path, *, resumes: bool) -> None:
        """Writes the vocabulary and the encoder of features, or checks that the run has these."""
        vocabulary, _ = self.words()
        if resumes:
            self.check_kept(workdir)
        if jax.process_index() == 0:
            vocabulary.save(str(workdir / VOCABULARY_FILE))
            encoder = _encoder(self.data.train_source)
            if encoder is not None:
                write_json(workdir / ENCODER_FILE, dict(encoder))

    def eval_subset(self, indices: Sequence[int]) -> CaptionSource:
        """Returns some images of the evaluation split with their captions."""
        return CaptionSubset(self.data.eval_source, indices)

    def shown(self, batch: dict) -> jax.Array:
        """Returns the tokens, int32 [batch, length]."""
        return jnp.asarray(batch["tokens"])

    def titles(self, shown: np.ndarray) -> list[str]:
        """Returns the caption of each image."""
        vocabulary, _ = self.words()
        return [caption_title(vocabulary.decode(row)) for row in shown]

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

    def _check_same_vocabulary(self, folder: pathlib.Path) -> None:
        """Raises InputError if the run in a folder was trained with another vocabulary."""
        path = folder / VOCABULARY_FILE
        if path.exists():
            vocabulary, _ = self.words()
            kept = load_vocabulary(str(path))
            check_vocabulary(
                vocabulary,
                size=len(kept),
                fingerprint=kept.fingerprint,
                where=f"the run in {folder}",
            )

    def _valid(self, batch: dict) -> Bool[Array, "batch targets"]:
        _, targets = shift(batch["tokens"])
        return (targets != self.pad) & batch["mask"][:, None]


def shift(
    tokens: Int[Array, "batch length"],
) -> tuple[Int[Array, "batch targets"], Int[Array, "batch targets"]]:
    """Returns what a decoder is given and what it shall say: the one place that shifts by one."""
    return tokens[:, :-1], tokens[:, 1:]


def _encoder(source: Any) -> Mapping[str, Any] | None:
    """Returns the description of what computed a source's features, if there is one."""
    return source.encoder if isinstance(source, CaptionedFeatures) else None


def _check_same_encoder(
    one: Mapping[str, Any] | None, other: Mapping[str, Any] | None, *, where: str
) -> None:
    """Checks that two descriptions are of the same encoder, wherever its weights were."""
    if one is None or other is None:
        return
    keys = sorted({*one, *other} - {"weights"})
    differ = [key for key in keys if one.get(key) != other.get(key)]
    if differ:
        key = differ[0]
        raise InputError(
            f"The features of the {where} and of the evaluation split are of different encoders "
            f"({key}: {shorten(one.get(key))} and {shorten(other.get(key))}): compute both "
            "with the same `jaxvision embed`."
        )


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


def _open_vocabulary(options: CaptionOptions, train_source: CaptionSource) -> Vocabulary:
    if options.vocabulary:
        return load_vocabulary(options.vocabulary)
    if train_source.vocabulary is not None:  # the data's own, as CS231n's has
        return train_source.vocabulary
    captions = train_source.all_captions()
    if options.tokens == "words":
        return Vocabulary.build(captions, min_count=options.min_count)
    return SubwordVocabulary.build(captions, size=options.vocabulary_size)
