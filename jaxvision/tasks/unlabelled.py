"""What tasks that learn from images alone have in common: their data, and what they refuse."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from jaxvision.data.sources.open_source import open_both
from jaxvision.data.sources.share import check_disjoint
from jaxvision.data.target import NoLabel
from jaxvision.errors import InputError
from jaxvision.options.loss import LossOptions
from jaxvision.options.options import Options
from jaxvision.tasks.features import FeatureScores, metric_names
from jaxvision.tasks.task import (
    Metrics,
    OpenRun,
    Task,
    TaskData,
    Weights,
    check_plain_evaluation,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unlabelled(Task):
    """A task whose batches have images and no labels.

    Attributes:
      data: Records of the run; their labels are not used to learn.
      features: Scores of the features, as config.eval.features asks; None: none.
    """

    data: TaskData = TaskData()
    features: FeatureScores | None = None

    @classmethod
    def open(cls, options: Options) -> Any:
        """Opens images; see `Task.open`."""
        return cls._open(options, training=True)

    @classmethod
    def reopen(cls, options: Options, workdir: pathlib.Path, *, training: bool) -> Any:
        """Opens the images of a run that a folder holds; see `Task.reopen`."""
        del workdir
        return cls._open(options, training=training)

    @classmethod
    def _open(cls, options: Options, *, training: bool) -> Any:
        """Opens the images as for a classifier."""
        _check_options(options)
        data, kinds = options.data, options.eval.features
        training = training or bool(kinds)  # features are judged by training images
        if training and not data.name.startswith("tfds:"):
            check_disjoint(data.train_split, data.eval_split)
        train_source, eval_source = open_both(
            data.name,
            data.train_split,
            data.eval_split,
            training=training,
            labelled=False,
            path=data.path,
            shapes=dataclasses.asdict(data.shapes),
            image_size=data.image_size,
            image_column=data.image_column,
            label_column=data.label_column,
        )
        opened = TaskData(train_source or (), eval_source, target=NoLabel())
        features = FeatureScores.of(kinds, opened) if kinds else None
        return cls(data=opened, features=features)

    def metric_names(self) -> tuple[str, ...]:
        """Returns the names of the metrics, those of the features among them."""
        return (*self.metrics, *(metric_names(self.features.kinds) if self.features else ()))

    def evaluator(self, run: OpenRun) -> Callable[[dict[str, Weights]], Metrics]:
        """Returns the function from sets of weights to the metrics of the evaluation split."""
        own = self.own_evaluator(run)
        if self.features is None:
            return own
        score = self.features.scorer(run)
        return lambda sets: (
            own(sets)
            | {
                f"{prefix}/{name}": value
                for prefix, weights in sets.items()
                for name, value in score(weights).items()
            }
        )

    def own_evaluator(self, run: OpenRun) -> Callable[[dict[str, Weights]], Metrics]:
        """Returns the function of `evaluator` for the metrics of the task alone."""
        return super().evaluator(run)


def _check_options(options: Options) -> None:
    """Checks that nothing is asked for that needs labels, which are not used."""
    if options.augment.mixup_alpha or options.augment.cutmix_alpha:
        raise InputError(
            f"--config.task={options.task} learns from images as they are: set "
            "--config.augment.mixup_alpha and --config.augment.cutmix_alpha to 0."
        )
    if options.loss != LossOptions() or options.distill.teacher_weights:
        raise InputError(
            f"--config.task={options.task} has a loss of its own, without labels or a teacher: "
            "leave --config.loss and --config.distill.teacher_weights out."
        )
    check_plain_evaluation(options)
