"""What the tasks on captioned images share: data, vocabulary, what a run keeps of it."""

import abc
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.data.captions.caption_source import CaptionSource, CaptionSubset
from jaxvision.data.captions.caption_target import CaptionTarget, check_captions
from jaxvision.data.captions.features import ENCODER_FILE, CaptionedFeatures
from jaxvision.data.captions.open_captions import open_caption_source
from jaxvision.data.captions.subword import SubwordVocabulary
from jaxvision.data.captions.vocabulary import Vocabulary, check_vocabulary
from jaxvision.data.captions.vocabulary_file import load_vocabulary
from jaxvision.data.sources.share import held_out
from jaxvision.errors import InputError, shorten
from jaxvision.files import read_json, write_json
from jaxvision.interop.run_folder import VOCABULARY_FILE
from jaxvision.options.caption import CaptionOptions
from jaxvision.options.options import Options
from jaxvision.plots.previews import caption_title
from jaxvision.tasks.task import Task, TaskData


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captioned(Task):
    """A task whose records are images with captions; it writes `_open`, `loss` and `evaluate`.

    Attributes:
      vocabulary: Vocabulary of the tokens; None where only losses are computed.
      data: Records of the run.
    """

    vocabulary: Vocabulary | None = None
    data: TaskData = TaskData()

    @classmethod
    def open(cls, options: Options) -> "Captioned":
        """Opens captioned images; see `Task.open`."""
        return cls._open(options, None)

    @classmethod
    def reopen(cls, options: Options, workdir: pathlib.Path, *, training: bool) -> "Captioned":
        """Opens captioned images; an evaluation takes the run's vocabulary."""
        path = workdir / VOCABULARY_FILE
        if training or not path.exists():
            return cls._open(options, None)
        return cls._open(options, load_vocabulary(str(path)))

    @classmethod
    @abc.abstractmethod
    def _open(cls, options: Options, vocabulary: Vocabulary | None) -> "Captioned":
        """Opens the data, of an evaluation alone if the vocabulary is known."""

    def tokens(self) -> Vocabulary:
        """Returns the vocabulary.

        Raises:
          ValueError: if the task was made without one.
        """
        if self.vocabulary is None:
            raise ValueError(
                f"This task was made without a vocabulary: use {type(self).__name__}.open."
            )
        return self.vocabulary

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
        if resumes:
            self.check_kept(workdir)
        if jax.process_index() == 0:
            self.tokens().save(str(workdir / VOCABULARY_FILE))
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
        return [caption_title(self.tokens().decode(row)) for row in shown]

    def _check_same_vocabulary(self, folder: pathlib.Path) -> None:
        """Raises InputError if the run in a folder was trained with another vocabulary."""
        path = folder / VOCABULARY_FILE
        if path.exists():
            kept = load_vocabulary(str(path))
            check_vocabulary(
                self.tokens(),
                size=len(kept),
                fingerprint=kept.fingerprint,
                where=f"the run in {folder}",
            )


@dataclasses.dataclass(frozen=True)
class OpenCaptions:
    """Captioned images of a run.

    Attributes:
      vocabulary: Vocabulary of the tokens.
      data: Records, with what follows from them for the model.
    """

    vocabulary: Vocabulary
    data: TaskData


def open_captioned(options: Options, vocabulary: Vocabulary | None) -> OpenCaptions:
    """Opens the captioned images of a run.

    Args:
      options: Options of the run.
      vocabulary: Vocabulary of a run that is evaluated, which needs no training records; None: that
        of the options, or one made of the training captions.

    Raises:
      InputError: if the data is missing, or an option does not fit.
    """
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
        check_captions(train_source, vocabulary, caption.max_length, strict=caption.strict_length)
    eval_source = open_split(data.eval_split)
    _check_same_encoder(_encoder(train_source), _encoder(eval_source), where="training split")
    model_options: dict[str, Any] = {"max_length": caption.max_length}
    features = eval_source[0].get("features")
    if features is not None:
        model_options |= {"encoder": None, "feature_width": features.shape[-1]}
    return OpenCaptions(
        vocabulary,
        TaskData(
            train_source,
            eval_source,
            len(vocabulary),
            model_options,
            CaptionTarget(vocabulary, caption.max_length),
            has_images=features is None,
        ),
    )


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


def _open_vocabulary(options: CaptionOptions, train_source: CaptionSource) -> Vocabulary:
    if options.vocabulary:
        return load_vocabulary(options.vocabulary)
    if train_source.vocabulary is not None:  # the data's own, as CS231n's has
        return train_source.vocabulary
    captions = train_source.all_captions()
    if options.tokens == "words":
        return Vocabulary.build(captions, min_count=options.min_count)
    return SubwordVocabulary.build(captions, size=options.vocabulary_size)
