"""How good features are while a model learns without labels, by the labels of the data."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxvision.data.sampling import labels_of
from jaxvision.data.source import Subset
from jaxvision.errors import InputError
from jaxvision.metrics.neighbours import knn_accuracy
from jaxvision.metrics.outputs import Outputs
from jaxvision.metrics.probe import linear_probe, split_features
from jaxvision.options.run import FEATURES
from jaxvision.tasks.samples import outputs_of
from jaxvision.tasks.task import Metrics, OpenRun, TaskData, Weights, drawn

TRAINING_IMAGES = 10_000  # that vote or are learned from, drawn by chance, the same each time


def metric_names(kinds: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the metrics, of some of `options.run.FEATURES`."""
    return tuple(f"{kind}_accuracy" for kind in FEATURES if kind in kinds)


@dataclasses.dataclass(frozen=True)
class FeatureScores:
    """Scores the features of weights: of the evaluation split, by some of the training split.

    The labels are looked at when this is made, before a run begins.

    Attributes:
      kinds: What is scored, some of `options.run.FEATURES`.
      data: Records of the run.
      labels: Labels of the training images that are used.

    Raises:
      InputError: if the data has no labels, or too few of a class.
    """

    kinds: tuple[str, ...]
    data: TaskData
    labels: np.ndarray

    @classmethod
    def of(cls, kinds: Sequence[str], data: TaskData) -> "FeatureScores":
        """Returns the scores of a run's data."""
        names = getattr(data.train_source, "class_names", ())
        if len(names) < 2:
            raise InputError(
                "--config.eval.features judges features by the classes of the images, but the "
                f"training split has {len(names)}: leave it out, or put the images of each class "
                "into a folder."
            )
        labels = labels_of(_training(data))
        counts = np.bincount(labels[labels >= 0], minlength=len(names))
        if "probe" in kinds and counts.min() < 2:
            raise InputError(
                f"--config.eval.features=probe needs two training images of each class, but there "
                f"are {counts.min()} of {names[int(counts.argmin())]!r} among {len(labels):,}: "
                "leave probe out."
            )
        return cls(tuple(kinds), data, labels)

    def scorer(self, run: OpenRun) -> Callable[[Weights], Metrics]:
        """Returns the function from weights to {metric: accuracy}.

        Args:
          run: Run whose model is scored.
        """
        step = features_step(run)
        train, names = _training(self.data), self.data.train_source.class_names

        def score(weights: Weights) -> Metrics:
            values, places = outputs_of(run, train, lambda batch: step(weights, batch["image"]))
            known = Outputs(values, self.labels[places], places)
            source = self.data.eval_source
            values, places = outputs_of(run, source, lambda batch: step(weights, batch["image"]))
            labels = np.array([source.label(i) for i in places.tolist()], np.int32)
            new = Outputs(values, labels, places)
            results = {}
            if "knn" in self.kinds:
                results["knn_accuracy"] = knn_accuracy(
                    known.values, known.labels, new.values, new.labels, num_classes=len(names)
                )
            if "probe" in self.kinds:
                parts = split_features(known, new, names)
                results["probe_accuracy"] = linear_probe(parts)["accuracy"]
            return results

        return score


def features_step(run: OpenRun) -> Callable[[Weights, jax.Array], jax.Array]:
    """Returns the jitted function (weights, uint8 images) -> features [batch, width].

    Args:
      run: Run whose model returns features, as it has no head.
    """

    @jax.jit
    def step(weights: Weights, images: jax.Array) -> jax.Array:
        model: Any = nnx.merge(run.graphdef, *weights, copy=True)
        return model(run.preprocess_fn(images)).astype(np.float32)

    return step


def _training(data: TaskData) -> Subset:
    return Subset(data.train_source, drawn(len(data.train_source), TRAINING_IMAGES))
