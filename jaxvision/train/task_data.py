"""What each task opens: records, their targets, the outputs of the model. A new task is a row."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from jaxvision.data.captions.caption_source import CaptionSource, CaptionSubset
from jaxvision.data.captions.caption_target import CaptionTarget, check_captions
from jaxvision.data.captions.open_captions import open_caption_source
from jaxvision.data.captions.subword import SubwordVocabulary
from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.data.source import Subset
from jaxvision.data.sources.open_source import open_source
from jaxvision.data.target import Target
from jaxvision.decode.settings import DecodeSettings
from jaxvision.errors import InputError, check_choice
from jaxvision.tasks.captioning import Captioning
from jaxvision.tasks.classification import Classification
from jaxvision.tasks.self_critical import SelfCritical
from jaxvision.train.check import check_classes, check_loss
from jaxvision.train.teacher import OpenTeacher, distillation, open_teacher
from jaxvision.train.workdir import Config


@dataclasses.dataclass(frozen=True)
class CaptionData:
    """What captions need beside their images.

    Attributes:
      vocabulary: of the tokens.
      settings: how captions are decoded in an evaluation.
    """

    vocabulary: Vocabulary
    settings: DecodeSettings


@dataclasses.dataclass(frozen=True)
class TaskData:
    """The data of a run and what its batches mean.

    Attributes:
      task: loss and evaluation of a batch.
      train_source: random access to the training records.
      eval_source: random access to the evaluation records.
      num_outputs: of the model's head.
      model_options: further fields of the model's config that follow from the data.
      target: what an example has beside its image; None: a label.
      class_names: by label.
      captions: of a captioning task.
      teacher: of a student; its weights are the constants of the training step.
    """

    task: Any
    train_source: Any
    eval_source: Any
    num_outputs: int
    model_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    target: Target | None = None
    class_names: tuple[str, ...] = ()
    captions: CaptionData | None = None
    teacher: OpenTeacher | None = None

    @property
    def has_images(self) -> bool:
        """Whether an example has an image, not the features of one."""
        return "feature_width" not in self.model_options

    def eval_subset(self, indices: Sequence[int]) -> Any:
        """Returns some records of the evaluation split."""
        subset = Subset if self.captions is None else CaptionSubset
        return subset(self.eval_source, indices)


def open_task(config: Config) -> TaskData:
    """Returns the data of a config's task.

    Raises:
      InputError: if there is no such task, or its data is missing or does not fit.
    """
    check_choice("--config.task", config.task, tuple(_TASKS))
    return _TASKS[config.task](config)


def task_metrics(task: str) -> tuple[str, ...]:
    """Returns the names, without prefix, of the metrics that may say which checkpoint is best."""
    return _METRICS.get(task, ())


def _open_classification(config: Config) -> TaskData:
    data = config.data
    open_split = functools.partial(open_source, data.name, path=data.path, shapes=data.shapes)
    train_source = open_split(data.train_split, image_size=data.image_size)
    eval_source = open_split(
        data.eval_split,
        image_size=data.image_size,
        class_names=train_source.class_names,
        class_folders=config.eval.class_folders,
    )
    num_classes = config.model.num_classes or len(train_source.class_names)
    check_classes(num_classes, train_source.class_names)
    smoothing = check_loss(config, num_classes)
    task = Classification(
        label_smoothing=smoothing,
        loss_name=config.loss.name,
        target_threshold=config.loss.target_threshold,
    )
    teacher = open_teacher(config, num_classes=num_classes, class_names=train_source.class_names)
    return TaskData(
        task=task if teacher is None else distillation(config, task, teacher),
        train_source=train_source,
        eval_source=eval_source,
        num_outputs=num_classes,
        class_names=train_source.class_names,
        teacher=teacher,
    )


def _open_captioning(config: Config) -> TaskData:
    data, caption = config.data, config.caption
    if config.augment.mixup_alpha > 0 or config.augment.cutmix_alpha > 0:
        raise InputError(
            "Captions cannot be mixed as labels can: set --config.augment.mixup_alpha=0 "
            "--config.augment.cutmix_alpha=0."
        )
    open_split = functools.partial(
        open_caption_source,
        data.name,
        path=data.path,
        images=data.images,
        features=data.features,
        skip_missing=data.skip_missing,
        image_size=data.image_size,
        shapes=data.shapes,
    )
    train_source, eval_source = open_split(data.train_split), open_split(data.eval_split)
    vocabulary = _vocabulary(config, train_source)
    check_captions(train_source, vocabulary, caption.max_length, strict=caption.strict_length)
    settings = DecodeSettings(
        max_length=caption.max_length,
        num_beams=caption.num_beams,
        length_penalty=caption.length_penalty,
        repetition_penalty=caption.repetition_penalty,
        no_repeat_ngram_size=caption.no_repeat_ngram_size,
        suppress_tokens=(vocabulary.pad, vocabulary.start, vocabulary.unk),
    )
    smoothing = check_loss(config, len(vocabulary))
    task: Any = Captioning(pad=vocabulary.pad, label_smoothing=smoothing)
    if caption.self_critical_samples:
        task = SelfCritical.of(
            train_source,
            vocabulary,
            dataclasses.replace(
                settings,
                num_beams=1,
                do_sample=True,
                num_return_sequences=caption.self_critical_samples,
            ),
        )
    options: dict[str, Any] = {"max_length": caption.max_length}
    features = train_source[0].get("features")
    if features is not None:
        options |= {"encoder": None, "feature_width": features.shape[-1]}
    return TaskData(
        task=task,
        train_source=train_source,
        eval_source=eval_source,
        num_outputs=len(vocabulary),
        model_options=options,
        target=CaptionTarget(vocabulary, caption.max_length),
        captions=CaptionData(vocabulary, settings),
    )


def _vocabulary(config: Config, train_source: CaptionSource) -> Vocabulary:
    caption = config.caption
    if caption.vocabulary:
        return Vocabulary.load(caption.vocabulary)
    if train_source.vocabulary is not None:  # the data's own, as CS231n's has
        return train_source.vocabulary
    check_choice("--config.caption.tokens", caption.tokens, ("words", "subwords"))
    captions = train_source.all_captions()
    if caption.tokens == "words":
        return Vocabulary.build(captions, min_count=caption.min_count)
    return SubwordVocabulary.build(captions, size=caption.vocabulary_size)


# A new task is one function and one entry here.
_TASKS: dict[str, Callable[[Config], TaskData]] = {
    "classification": _open_classification,
    "captioning": _open_captioning,
}
_METRICS = {
    "classification": ("accuracy", "top5_accuracy", "loss"),
    "captioning": ("cider", "bleu4", "rouge_l", "exact_match", "token_accuracy", "loss"),
}
