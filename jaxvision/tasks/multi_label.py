"""Several labels an image: what a batch of images and of a label for each class means."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from jaxvision.data.classes import read_class_names
from jaxvision.data.sources.label_sets import (
    LabelSetShare,
    hold_out_label_sets,
    label_matrix,
    open_label_sets,
)
from jaxvision.data.sources.share import check_disjoint, held_out
from jaxvision.data.target import LabelRow
from jaxvision.errors import InputError, shorten
from jaxvision.files import write_json
from jaxvision.interop.run_folder import CLASSES_FILE, THRESHOLDS_FILE, read_thresholds
from jaxvision.metrics.losses import sigmoid_focal_terms
from jaxvision.metrics.multi_label import (
    best_thresholds,
    cross_entropy,
    multi_label_scores,
    sigmoid,
)
from jaxvision.metrics.multi_label_losses import asymmetric_terms, binary_terms, smoothed_targets
from jaxvision.options.options import Options
from jaxvision.plots.label_grid import plot_label_sets
from jaxvision.tasks.kept_classes import check_kept_classes, keep_classes
from jaxvision.tasks.samples import look_at
from jaxvision.tasks.task import (
    Metrics,
    OpenRun,
    Task,
    TaskData,
    Weights,
    check_plain_evaluation,
    drawn,
)

NUM_SAMPLES = 25  # images in the picture of predictions
NUM_CANDIDATES = 256  # images that they are chosen from


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiLabel(Task):
    """Loss and exact evaluation of a model that says of each class whether it is there.

    A label is 1, 0, or below 0 where nobody knows; an unknown one counts in no loss or metric.

    Attributes:
      loss_name: Name of the training loss, one of `options.loss.MULTI_LABEL_LOSSES`; evaluations
        report `bce`. It is the mean over all known labels of a batch, of `asymmetric` the sum over
        classes and the mean over images, as timm's.
      label_smoothing: Share of the way to 0.5 that labels are moved, in [0, 1).
      positive_weights: Weight of each class where it is there; empty: 1.
      focal_gamma: Exponent of `sigmoid_focal`.
      focal_alpha: Weight of what is there in `sigmoid_focal`.
      gamma_negative: Exponent of what is not there in `asymmetric`.
      gamma_positive: Exponent of what is there in `asymmetric`.
      negative_clip: Probability below which what is not there counts nothing in `asymmetric`.
      class_names: Names of the classes, by output.
      thresholds: Probability of each class from which on it is said, as the run has kept them;
        empty: those that fit the evaluation split best.
      data: Records of the run.
    """

    name = "multi_label"
    model_task = "classification"
    metrics = ("map", "map_micro", "f1", "f1_micro", "f1_tuned", "f1_micro_tuned", "loss")

    loss_name: str = "bce"
    label_smoothing: float = 0.0
    positive_weights: tuple[float, ...] = ()
    focal_gamma: float = 2.0
    focal_alpha: float = 0.25
    gamma_negative: float = 4.0
    gamma_positive: float = 1.0
    negative_clip: float = 0.05
    class_names: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    data: TaskData = TaskData()

    @classmethod
    def open(cls, options: Options) -> "MultiLabel":
        """Opens images with several labels; see `Task.open`."""
        return cls._open(options, None)

    @classmethod
    def reopen(cls, options: Options, workdir: pathlib.Path, *, training: bool) -> "MultiLabel":
        """Opens images whose labels follow the run's list of classes."""
        names = read_class_names(workdir / CLASSES_FILE) or None
        task = cls._open(options, names, training=training or names is None)
        kept = () if training else read_thresholds(workdir, task.class_names)
        return dataclasses.replace(task, thresholds=kept)

    @classmethod
    def _open(
        cls, options: Options, class_names: tuple[str, ...] | None, *, training: bool = True
    ) -> "MultiLabel":
        _check_options(options)
        data, loss = options.data, options.loss
        if training:
            check_disjoint(data.train_split, data.eval_split)
        open_split = functools.partial(
            open_label_sets,
            data.name,
            path=data.path,
            separator=data.label_separator,
            shapes=dataclasses.asdict(data.shapes),
            image_size=data.image_size,
        )
        train_source: Any = ()
        percent = held_out(data.eval_split)
        if training or class_names is None or percent is not None:
            train_source = open_split(data.train_split, class_names=class_names)
            class_names = tuple(train_source.class_names)
        if percent is not None:
            train_source, eval_source = hold_out_label_sets(train_source, percent)
        else:
            eval_source = open_split(data.eval_split, class_names=class_names)
        num_classes = len(class_names)
        if options.model.num_classes not in (0, num_classes):
            raise InputError(
                f"--config.model.num_classes must be {num_classes}, the classes of the data, or 0, "
                f"got {options.model.num_classes}."
            )
        target = LabelRow(num_classes)
        return cls(
            loss_name=loss.name,
            label_smoothing=loss.label_smoothing,
            positive_weights=_positive_weights(loss.class_weights, train_source, class_names),
            focal_gamma=loss.focal_gamma,
            focal_alpha=loss.focal_alpha,
            gamma_negative=loss.gamma_negative,
            gamma_positive=loss.gamma_positive,
            negative_clip=loss.negative_clip,
            class_names=class_names,
            data=TaskData(train_source, eval_source, num_classes, target=target),
        )

    def prepare(self, batch: dict) -> dict:
        """Adds the share of labels that are known in the whole batch, [B].

        A micro-batch has another share, by which its loss must not be divided.
        """
        share = jnp.mean(batch["label"] >= 0, dtype=jnp.result_type(float))
        share = jnp.where(share > 0, share, 1.0)
        return dict(batch, known_share=jnp.broadcast_to(share, batch["label"].shape[:1]))

    def loss(self, model: Any, batch: dict, *, rngs: nnx.Rngs) -> tuple[jax.Array, dict]:
        """Returns the mean loss of a prepared training batch; no metric goes with it."""
        logits = model(batch["image"], train=True, rngs=rngs)
        return self.label_loss(logits, batch), {}

    def label_loss(self, logits: jax.Array, batch: dict) -> jax.Array:
        """Returns the mean loss of a prepared batch, or of a micro-batch of it.

        Args:
          logits: Logits of the images.
          batch: Batch with a label for each class, or its probability after mixup or cutmix.
        """
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        known = batch["label"] >= 0
        labels = jnp.maximum(batch["label"], 0).astype(logits.dtype)
        targets = smoothed_targets(labels, self.label_smoothing)
        weights = jnp.asarray(self.positive_weights) if self.positive_weights else None
        if self.loss_name == "bce":
            terms = binary_terms(logits, targets, positive_weights=weights)
        elif self.loss_name == "sigmoid_focal":
            gamma, alpha = self.focal_gamma, self.focal_alpha
            terms = sigmoid_focal_terms(logits, targets, gamma=gamma, alpha=alpha)
        else:
            terms = asymmetric_terms(
                logits,
                targets,
                gamma_negative=self.gamma_negative,
                gamma_positive=self.gamma_positive,
                clip=self.negative_clip,
                positive_weights=weights,
            )
        terms = jnp.where(known, terms, 0.0)
        if self.loss_name == "asymmetric":
            return jnp.mean(jnp.sum(terms, axis=-1))
        return jnp.mean(jnp.mean(terms, axis=-1) / batch["known_share"])

    def evaluate(self, model: Any, batch: dict) -> dict:
        """Returns {"loss": (sum, count)} over the known labels of the valid images of a batch.

        The rest takes all images at once, see `evaluator`.
        """
        logits, labels = model(batch["image"]), batch["label"]
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        known = (labels >= 0) & batch["mask"][:, None]
        terms = binary_terms(logits, jnp.maximum(labels, 0).astype(logits.dtype))
        return {"loss": (jnp.sum(jnp.where(known, terms, 0.0)), jnp.sum(known))}

    def evaluator(self, run: OpenRun) -> Callable[[dict[str, Weights]], Metrics]:
        """Returns the function from sets of weights to the metrics of the evaluation split.

        Average precision needs the probabilities of all images; every process gathers them.
        """

        def evaluate(weights: dict[str, Weights]) -> Metrics:
            logits, labels = collect_logits(run, weights)
            results = {}
            for prefix, values in logits.items():
                probabilities = sigmoid(values)
                at = np.array(self.thresholds or best_thresholds(probabilities, labels))
                scores = multi_label_scores(probabilities, labels, at)
                scores["loss"] = cross_entropy(values, labels)
                results |= {f"{prefix}/{name}": value for name, value in scores.items()}
            return results

        return evaluate

    def check_kept(self, workdir: pathlib.Path) -> None:
        """Checks that labels mean what they mean to the run."""
        check_kept_classes(workdir, self.class_names)

    def keep(self, workdir: pathlib.Path, *, resumes: bool) -> None:
        """Writes the names of the classes, one a line; those of a run stay as they are."""
        keep_classes(workdir, self.class_names, resumes=resumes)

    def eval_subset(self, indices: Sequence[int]) -> LabelSetShare:
        """Returns some records of the evaluation split, for a quick look."""
        return LabelSetShare(self.data.eval_source, indices)

    def shown(self, batch: dict) -> jax.Array:
        """Returns the label of each class, float32 [batch, classes]."""
        return batch["label"].astype(jnp.float32)

    def titles(self, shown: np.ndarray) -> list[str]:
        """Returns the classes that are there, those of mixed images with their shares."""
        return [self._title(row) for row in shown]

    def _title(self, labels: np.ndarray) -> str:
        there = [
            name if share == 1 else f"{name} {share:.0%}"
            for name, share in zip(self.class_names, labels.tolist(), strict=True)
            if share > 0
        ]
        return shorten(", ".join(there) or "none", 40)

    def draw(self, run: OpenRun, weights: Weights, workdir: pathlib.Path) -> str | None:
        """Writes the thresholds of the weights, and draws images with what is said of them.

        The thresholds are those with the best F1 of each class on the evaluation split. Images with
        the most mistakes come first.
        """
        logits, labels = collect_logits(run, {"eval": weights})
        thresholds = best_thresholds(sigmoid(logits["eval"]), labels)
        if jax.process_index() == 0:
            by_name = dict(zip(self.class_names, thresholds.tolist(), strict=True))
            write_json(workdir / THRESHOLDS_FILE, by_name)

        @jax.jit
        def predict(params, batch_stats, images):
            model: Any = nnx.merge(run.graphdef, params, batch_stats, copy=True)
            return model(run.preprocess_fn(images)).astype(jnp.float32)

        source = self.data.eval_source
        records = drawn(len(source), NUM_CANDIDATES)
        seen = look_at(run, self.eval_subset(records), lambda b: predict(*weights, b["image"]))
        good = np.flatnonzero(~seen.corrupt)
        if not len(good):
            return None
        truth = np.stack([source.labels(records[i]) for i in seen.positions[good]])
        probabilities = sigmoid(seen.outputs[good])
        said = probabilities >= thresholds
        mistakes = np.sum((said != truth) & (truth >= 0), axis=1)
        worst = np.argsort(-mistakes, kind="stable")[:NUM_SAMPLES]
        images = seen.images(seen.positions[good[worst]].tolist())
        if jax.process_index() == 0:
            plot_label_sets(
                images,
                truth[worst],
                probabilities[worst],
                said[worst],
                self.class_names,
                workdir / "predictions.png",
                title=f"{len(worst)} of {len(seen.positions)} evaluation images, those with the "
                f"most mistakes first; of {len(good)}, {np.sum(mistakes == 0)} have none",
            )
        return "predictions.png"


def collect_logits(
    run: OpenRun, weights: dict[str, Weights]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns the logits of each set of weights, and the labels, of all valid evaluation images.

    Args:
      run: Run that is evaluated; every process takes part.
      weights: Sets of weights, {prefix: (params, batch_stats)}.
    """

    @jax.jit
    def step(params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        model: Any = nnx.merge(run.graphdef, params, batch_stats, copy=True)
        logits = model(run.preprocess_fn(images))
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    rows = []
    for batch in run.eval_device_batches():
        outputs = [step(*tree, batch["image"]) for tree in weights.values()]
        mine = (*outputs, batch["label"], batch["mask"])
        rows.append([np.asarray(x) for x in multihost_utils.process_allgather(mine, tiled=True)])
    *values, labels, valid = (np.concatenate(column) for column in zip(*rows, strict=True))
    if not valid.any():
        raise InputError("The evaluation split has no image that can be decoded.")
    return dict(zip(weights, (x[valid] for x in values), strict=True)), labels[valid]


def _check_options(options: Options) -> None:
    loss = options.loss
    check_plain_evaluation(options)
    if options.distill.teacher_weights:
        raise InputError(
            "--config.distill.teacher_weights is for --config.task=classification, got "
            "'multi_label': leave it out."
        )
    if loss.target_threshold or loss.smoothing_over != "all":
        raise InputError(
            "--config.loss.target_threshold and .smoothing_over are for one label an image: leave "
            "them out with --config.task=multi_label."
        )
    if loss.class_weights == "effective":
        raise InputError(
            "With --config.task=multi_label, --config.loss.class_weights is none, balanced or a "
            "number for each class, got 'effective'."
        )
    if loss.class_weights != "none" and loss.name == "sigmoid_focal":
        raise InputError(
            "--config.loss.name=sigmoid_focal weighs what is there by --config.loss.focal_alpha: "
            "leave --config.loss.class_weights out."
        )


def _positive_weights(given: Any, source: Any, class_names: tuple[str, ...]) -> tuple[float, ...]:
    """Returns the weight of each class where it is there; empty: 1."""
    if not isinstance(given, str):
        if len(given) != len(class_names):
            raise InputError(
                f"--config.loss.class_weights has {len(given)} weights, but there are "
                f"{len(class_names)} classes: {shorten(', '.join(class_names))}."
            )
        return tuple(map(float, given))
    if given == "none" or not len(source):
        return ()
    labels = label_matrix(source)
    there, absent = np.sum(labels == 1, axis=0), np.sum(labels == 0, axis=0)
    rare = [name for name, a, b in zip(class_names, there, absent, strict=True) if not a or not b]
    if rare:
        raise InputError(
            f"The class {rare[0]!r} is in none or in all of the training images, so that it has no "
            "balanced weight: give --config.loss.class_weights as numbers."
        )
    return tuple((absent / there).tolist())
