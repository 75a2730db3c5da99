"""Image classification: what a batch of images and labels means."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxvision.data.class_lists import readable
from jaxvision.data.classes import read_class_names
from jaxvision.data.sampling import ClassSampling, count_labels, labels_of
from jaxvision.data.source import CorruptImageError
from jaxvision.data.sources.open_source import open_both
from jaxvision.data.sources.share import check_disjoint
from jaxvision.errors import InputError, shorten
from jaxvision.interop.run_folder import CLASSES_FILE
from jaxvision.metrics.class_balance import balanced_weights, effective_weights, log_priors
from jaxvision.metrics.classification import correct_by_class, topk_correct
from jaxvision.metrics.losses import (
    binary_cross_entropy,
    sigmoid_focal,
    smoothing_of_all,
    softmax_cross_entropy,
    softmax_focal,
)
from jaxvision.options.loss import LossOptions
from jaxvision.options.options import Options
from jaxvision.plots.prediction_grid import plot_predictions, worst_by_class
from jaxvision.plots.previews import class_shares
from jaxvision.tasks.kept_classes import check_kept_classes, keep_classes
from jaxvision.tasks.samples import look_at
from jaxvision.tasks.task import OpenRun, Task, TaskData, Weights, drawn

NUM_SAMPLES = 25  # images in the picture of predictions
NUM_CANDIDATES = 256  # images that they are chosen from
NUM_CORRUPT = 5  # of the images in the picture, at most

TOP = 5  # of `top5_accuracy`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Loss and exact evaluation of an image classifier.

    Attributes:
      label_smoothing: Probability mass spread evenly over all classes, in [0, 1).
      loss_name: Name of the training loss, one of `options.loss.LOSSES`; evaluations report
        `softmax_cross_entropy`.
      target_threshold: Threshold of bce, see `binary_cross_entropy`.
      focal_gamma: Exponent of the focal losses.
      focal_alpha: Weight of the true class in `sigmoid_focal`.
      class_weights: Weight of each class in the training loss; empty: all are 1. The mean over a
        batch of indices is that of torch's `cross_entropy(weight=...)`: the sum over the whole
        batch, on all devices and in all micro-batches, by the sum of the weights of its labels. The
        losses of mixed labels are divided by the number of examples, as there.
      logit_shifts: Number added to the logit of each class in the training loss; empty: 0.
      class_names: Names of the classes, by label.
      data: Records of the run.
    """

    name = "classification"
    metrics = ("accuracy", "top5_accuracy", "balanced_accuracy", "loss")

    label_smoothing: float = 0.0
    loss_name: str = "softmax_cross_entropy"
    target_threshold: float = 0.0
    focal_gamma: float = 2.0
    focal_alpha: float = 0.25
    class_weights: tuple[float, ...] = ()
    logit_shifts: tuple[float, ...] = ()
    class_names: tuple[str, ...] = ()
    data: TaskData = TaskData()

    @classmethod
    def open(cls, options: Options) -> "Classification":
        """Opens labelled images; see `Task.open`."""
        return cls._open(options, None)

    @classmethod
    def reopen(cls, options: Options, workdir: pathlib.Path, *, training: bool) -> "Classification":
        """Opens labelled images whose labels follow the run's list of classes."""
        names = read_class_names(workdir / CLASSES_FILE) or None
        return cls._open(options, names, training=training or names is None)

    @classmethod
    def _open(
        cls, options: Options, class_names: tuple[str, ...] | None, *, training: bool = True
    ) -> "Classification":
        data = options.data
        if training and not data.name.startswith("tfds:"):
            check_disjoint(data.train_split, data.eval_split)
        opened, eval_source = open_both(
            data.name,
            data.train_split,
            data.eval_split,
            class_names=class_names,
            class_folders=options.eval.class_folders,
            training=training,
            path=data.path,
            shapes=dataclasses.asdict(data.shapes),
            image_size=data.image_size,
            image_column=data.image_column,
            label_column=data.label_column,
        )
        train_source: Any = () if opened is None else opened
        class_names = tuple(eval_source.class_names)
        num_classes = options.model.num_classes or len(class_names)
        _check_classes(num_classes, class_names)
        labels = functools.cache(lambda: labels_of(train_source))  # may read all records
        sampling, power = None, data.sampling_power
        if power not in (None, 1.0) and len(train_source):
            sampling = ClassSampling(labels(), power)
        return cls(
            label_smoothing=smoothing_over_all(options.loss, num_classes),
            loss_name=options.loss.name,
            target_threshold=options.loss.target_threshold,
            focal_gamma=options.loss.focal_gamma,
            focal_alpha=options.loss.focal_alpha,
            class_names=class_names,
            **_balance(options.loss, labels, class_names, num_classes, len(train_source) > 0),
            data=TaskData(train_source, eval_source, num_classes, sampling=sampling),
        )

    def loss(self, model: Any, batch: dict, *, rngs: nnx.Rngs) -> tuple[jax.Array, dict]:
        """Returns the mean loss of a training batch and its float32 scalar metrics.

        Labels are class indices [B], or probabilities [B, K] after mixup or cutmix. Against mixed
        labels there is no accuracy, so none is reported.
        """
        logits = model(batch["image"], train=True, rngs=rngs)
        return self.label_loss(logits, batch), accuracy(logits, batch["label"])

    def prepare(self, batch: dict) -> dict:
        """Adds the mean weight of the labels of the whole batch, [B], where classes have weights.

        A micro-batch has another mean, by which its loss must not be divided.
        """
        if not self.class_weights or batch["label"].ndim == 2:
            return batch
        mean = jnp.mean(self._weights_of(batch["label"]))
        mean = jnp.where(mean > 0, mean, 1.0)  # all weights may be 0, as the losses then are
        return dict(batch, mean_weight=jnp.broadcast_to(mean, batch["label"].shape))

    def label_loss(self, logits: jax.Array, batch: dict) -> jax.Array:
        """Returns the mean loss of a prepared batch, or of a micro-batch of it.

        Args:
          logits: Logits of the examples.
          batch: Batch with labels.
        """
        losses = self.label_losses(logits, batch["label"])
        return jnp.mean(losses / batch.get("mean_weight", 1.0))

    def label_losses(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns the loss of each example against its label, [B], by the weight of its class."""
        smoothing = self.label_smoothing
        if self.logit_shifts:
            shifts = jnp.asarray(self.logit_shifts)
            logits = logits.astype(jnp.promote_types(logits.dtype, shifts.dtype)) + shifts[None]
        weights = jnp.asarray(self.class_weights) if self.class_weights else None
        softmax: Any = {"label_smoothing": smoothing, "class_weights": weights}
        if self.loss_name == "softmax_cross_entropy":
            return softmax_cross_entropy(logits, labels, **softmax)
        if self.loss_name == "focal":
            return softmax_focal(logits, labels, gamma=self.focal_gamma, **softmax)
        if self.loss_name == "bce":
            losses = binary_cross_entropy(
                logits, labels, label_smoothing=smoothing, target_threshold=self.target_threshold
            )
        else:
            gamma, alpha = self.focal_gamma, self.focal_alpha
            losses = sigmoid_focal(
                logits, labels, label_smoothing=smoothing, gamma=gamma, alpha=alpha
            )
        return losses if weights is None else losses * self._weights_of(labels)

    def _weights_of(self, labels: jax.Array) -> jax.Array:
        """Returns the weight of each example [B] whose label is an index, or a mixture [B, K]."""
        weights = jnp.asarray(self.class_weights)
        return weights[labels] if labels.ndim == 1 else labels @ weights

    def metric_names(self) -> tuple[str, ...]:
        """Returns the names of the metrics; of few classes, top 5 says nothing."""
        few = self.data.num_outputs <= TOP
        return tuple(name for name in self.metrics if not (few and name == "top5_accuracy"))

    def evaluate(self, model: Any, batch: dict) -> dict:
        """Returns {metric: (sum, count)} over the valid examples of a batch."""
        logits = model(batch["image"])
        values = {
            "loss": softmax_cross_entropy(logits, batch["label"]),
            "accuracy": topk_correct(logits, batch["label"], k=1),
        }
        if logits.shape[-1] > TOP:  # of fewer, every class would be among them
            values["top5_accuracy"] = topk_correct(logits, batch["label"], k=TOP)
        count = jnp.sum(batch["mask"])
        # where, not multiplication: padding may hold anything, also a non-finite loss.
        sums = {
            name: (jnp.sum(jnp.where(batch["mask"], value, 0.0)), count)
            for name, value in values.items()
        }
        by_class = correct_by_class(
            values["accuracy"], batch["label"], batch["mask"], num_classes=logits.shape[-1]
        )
        return sums | {"balanced_accuracy": by_class}

    def check_kept(self, workdir: pathlib.Path) -> None:
        """Checks that labels mean what they mean to the run."""
        check_kept_classes(workdir, self.class_names)

    def keep(self, workdir: pathlib.Path, *, resumes: bool) -> None:
        """Writes the names of the classes, one a line; those of a run stay as they are."""
        keep_classes(workdir, self.class_names, resumes=resumes)

    def shown(self, batch: dict) -> jax.Array:
        """Returns the share of each class, float32 [batch, classes]."""
        labels = batch["label"]
        return labels if labels.ndim == 2 else jax.nn.one_hot(labels, self.data.num_outputs)

    def titles(self, shown: np.ndarray) -> list[str]:
        """Returns the classes of each image."""
        return [class_shares(shares, readable(self.class_names)) for shares in shown]

    def draw(self, run: OpenRun, weights: Weights, workdir: pathlib.Path) -> str | None:
        """Draws evaluation images with their predicted classes, the worst mistakes first."""

        @jax.jit
        def predict(params, batch_stats, images):
            model: Any = nnx.merge(run.graphdef, params, batch_stats, copy=True)
            return jax.nn.softmax(model(run.preprocess_fn(images)))

        source = self.data.eval_source
        records = drawn(len(source), NUM_CANDIDATES)
        seen = look_at(run, self.eval_subset(records), lambda b: predict(*weights, b["image"]))
        labels = np.array([_label(source, records[i]) for i in seen.positions], np.int32)
        good = np.flatnonzero(~seen.corrupt & (labels >= 0))
        corrupt = np.flatnonzero(seen.corrupt & (labels >= 0))[:NUM_CORRUPT]
        worst = worst_by_class(seen.outputs[good], labels[good], NUM_SAMPLES - len(corrupt))
        chosen = [*good[worst], *corrupt]
        if not chosen:
            return None
        images = seen.images(seen.positions[chosen].tolist())
        if jax.process_index() == 0:
            right = np.argmax(seen.outputs[good], axis=-1) == labels[good]
            more = range(len(self.class_names), self.data.num_outputs)
            plot_predictions(
                images,
                labels[chosen],
                seen.outputs[chosen],
                [*readable(self.class_names), *(f"class {i}" for i in more)],
                workdir / "predictions.png",
                corrupt=seen.corrupt[chosen],
                title=f"{len(chosen)} of {len(seen.positions)} evaluation images: of each class "
                f"the worst first; of all {len(right)}, {right.sum()} are right",
            )
        return "predictions.png"


def _label(source: Any, index: int) -> int:
    """Returns the label of a record; -1 where even that cannot be read."""
    try:
        return int(source[index]["label"])
    except CorruptImageError:
        return -1


def accuracy(logits: jax.Array, labels: jax.Array) -> dict:
    """Returns the accuracy of a batch as a metric; none against mixed labels [B, K]."""
    return {"accuracy": jnp.mean(topk_correct(logits, labels, k=1))} if labels.ndim == 1 else {}


def smoothing_over_all(options: LossOptions, num_outputs: int) -> float:
    """Returns the label smoothing over all outputs that equals the one that was asked for.

    Args:
      options: Options of the loss: the smoothing, and what it is spread over.
      num_outputs: Number of classes, or of words.
    """
    if options.smoothing_over == "all" or not options.label_smoothing:
        return options.label_smoothing
    return smoothing_of_all(options.label_smoothing, num_outputs)


def _balance(
    options: LossOptions,
    labels: Callable[[], np.ndarray],
    class_names: tuple[str, ...],
    num_classes: int,
    training: bool,
) -> dict[str, tuple[float, ...]]:
    """Returns the class weights and the shifts of the logits; without a training split none.

    Raises:
      InputError: if the weights are of another number of classes, or a class has no example.
    """
    kind, tau = options.class_weights, options.logit_adjustment
    if not isinstance(kind, str) and len(kind) != num_classes:
        raise InputError(
            f"--config.loss.class_weights has {len(kind)} weights, but there are {num_classes} "
            f"classes, in the order of {CLASSES_FILE}: {shorten(', '.join(class_names))}."
        )
    weights = () if isinstance(kind, str) else tuple(map(float, kind))
    if not training or not (tau or kind in ("balanced", "effective")):
        return {"class_weights": weights}
    counts = count_labels(labels(), num_classes)
    if not counts.all():
        label = int(np.argmin(counts))
        name = repr(class_names[label]) if label < len(class_names) else str(label)
        raise InputError(
            f"The class {name} has no training image, so that neither a weight nor a share of it "
            "is known: give --config.loss.class_weights as numbers, without "
            "--config.loss.logit_adjustment, or a split with all classes."
        )
    if kind == "balanced":
        weights = tuple(balanced_weights(counts).tolist())
    elif kind == "effective":
        weights = tuple(effective_weights(counts, beta=options.effective_beta).tolist())
    shifts = tuple((tau * log_priors(counts)).tolist()) if tau else ()
    return {"class_weights": weights, "logit_shifts": shifts}


def _check_classes(num_classes: int, class_names: tuple[str, ...]) -> None:
    """Checks that a classifier can learn something from the training split, and has room for it."""
    if num_classes < len(class_names):
        raise InputError(
            f"--config.model.num_classes must be at least {len(class_names)}, the classes of the "
            f"training split, or 0 to take their number, got {num_classes}."
        )
    if num_classes < 2:
        raise InputError(
            f"The training split has one class, {class_names[0]!r}, but a classifier needs at least"
            " two: give each class its own folder or label."
        )
