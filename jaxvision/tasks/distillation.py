"""Distillation: an image classifier that learns from the labels and from a teacher."""

import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxvision.errors import InputError, reason
from jaxvision.files import read_json, write_json
from jaxvision.interop.rules import flatten
from jaxvision.layers.linear import linear
from jaxvision.metrics.distillation import (
    feature_distillation,
    hard_distillation,
    soft_distillation,
)
from jaxvision.models.deit import DeiT
from jaxvision.models.image_model import PROJECTION
from jaxvision.models.spec import param_dtype
from jaxvision.options.options import Options
from jaxvision.options.size import sides
from jaxvision.tasks.classification import Classification, accuracy
from jaxvision.tasks.task import Build, Weights

TEACHER_FILE = "teacher.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """A classifier in inference mode, whose weights are handed to it at every call.

    Attributes:
      graphdef: Graph definition of the model.
      scale: Factor of each channel, from the student's pixels to the teacher's.
      shift: Number added to each channel after the factor.
      image_size: Size (height, width) of the images that the teacher sees, in pixels.
      order: Teacher's output for each of the student's classes; None: the same order.
    """

    graphdef: nnx.GraphDef
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    image_size: tuple[int, int]
    order: tuple[int, ...] | None = None

    def __call__(self, weights: Any, images: jax.Array) -> tuple[jax.Array, dict[int, jax.Array]]:
        """Returns the logits [B, K] and the maps of all stages by their stride.

        Args:
          weights: Weights of the teacher, (params, batch_stats).
          images: Images [B, H, W, C], normalised for the student.
        """
        scale, shift = (jnp.asarray(x, images.dtype) for x in (self.scale, self.shift))
        images = _resize(
            images * scale[None, None, None] + shift[None, None, None], self.image_size
        )
        model: Any = nnx.merge(self.graphdef, *weights, copy=True)
        features, maps = model.trunk(images)
        logits = model.classify(features)
        return logits if self.order is None else logits[:, np.array(self.order)], maps

    def shapes(self, weights: Any, size: tuple[int, int]) -> tuple[Any, dict[int, Any]]:
        """Returns the shapes of the logits and of the maps of one image of the student's.

        Args:
          weights: Weights of the teacher, (params, batch_stats), as arrays or shapes.
          size: Size (height, width) of the student's image, in pixels.
        """
        return jax.eval_shape(self, weights, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(Classification):
    """Loss of a student: (1 - alpha) of the labels, alpha of the teacher, and that of features.

    The teacher sees what the student sees, augmented and mixed. A model with a distillation token
    learns the labels by its first head and the teacher by its second; any other has one head for
    both. Evaluation is that of a classifier, without the teacher.

    Attributes:
      teacher: Teacher, whose weights are the constants of the step.
      weights: Weights of the teacher, (params, batch_stats), on the host; None where they are given
        otherwise.
      report: Origin of the teacher's weights, in words.
      kind: Kind of target that is learned: `soft`, the teacher's probabilities; `hard`, its first
        choice; `none`, neither.
      alpha: Share of the teacher in the loss, in [0, 1]; without effect where the kind is `none`.
      temperature: Temperature of `soft`.
      features: Comparison of the student's and the teacher's maps, `mse` or `cosine`; `none`: they
        are not compared. With it the student has a linear map to the teacher's width, see
        `build_with_projection`.
      feature_weight: Weight of the loss of the features.
      strides: Strides of the compared maps, the student's and the teacher's: pixels between two
        places.

    Source: Hinton et al. 2015 (soft); Touvron et al. 2021, DeiT, section 4 (hard, token); Romero et
      al. 2015, FitNets (features).
    """

    teacher: Teacher
    weights: Any = None
    report: str = ""
    kind: str = "soft"
    alpha: float = 0.5
    temperature: float = 1.0
    features: str = "none"
    feature_weight: float = 1.0
    strides: tuple[int, int] = (0, 0)

    @property
    def constants(self) -> Weights:
        """The teacher's (params, batch_stats) on the host."""
        return self.weights

    def fit_model(self, build: Build, options: Options) -> tuple["Distillation", Build]:
        """Returns the task and the student, which gets a projection where maps are compared.

        Raises:
          InputError: if one of the two has no map of the stride that is asked for.
        """
        if self.features == "none":
            return self, build
        size = sides(options.data.image_size)
        student: Any = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
        graphdef, *states = nnx.split(student, nnx.Param, nnx.BatchStat)
        plain = Teacher(graphdef=graphdef, scale=(1.0,) * 3, shift=(0.0,) * 3, image_size=size)
        found = []
        for who, (_, maps) in (
            ("student", plain.shapes(tuple(map(nnx.to_pure_dict, states)), size)),
            ("teacher", self.teacher.shapes(self.weights, size)),
        ):
            stride = options.distill.feature_stride or max(maps)
            if stride not in maps:
                raise InputError(
                    f"The {who} has maps of the strides {', '.join(map(str, maps))}, none of "
                    f"--config.distill.feature_stride={stride}; 0 takes the last map of both."
                )
            found.append((stride, maps[stride].shape[-1]))
        (ours, width), (theirs, teacher_width) = found
        dtype = options.model.dtype
        build = functools.partial(
            build_with_projection,
            build=build,
            width=width,
            teacher_width=teacher_width,
            dtype=dtype,
            param_dtype=param_dtype(dtype),
        )
        return dataclasses.replace(self, strides=(ours, theirs)), build

    def keep(self, workdir: pathlib.Path, *, resumes: bool) -> None:
        """Writes down the classes and which teacher a run has, or checks that it is the same.

        Its weights are in no checkpoint, so that a run that resumes reads them again.
        """
        path, found = workdir / TEACHER_FILE, _digest(self.weights)
        if resumes:
            self._check_same_teacher(path, found)
        elif jax.process_index() == 0:
            write_json(path, {"sha256": found, "weights": self.report})
        super().keep(workdir, resumes=resumes)

    def _check_same_teacher(self, path: pathlib.Path, found: str) -> None:
        try:
            kept = read_json(path)
            same, began_with = kept["sha256"] == found, kept["weights"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({reason(error)}): restore it.") from error
        if not same:
            raise InputError(
                f"The run in {path.parent} began with another teacher ({began_with}) than "
                f"--config.distill.teacher_weights holds now ({self.report}): give that one; of a "
                "run that went on, the folder <run>/checkpoints/<step> of the checkpoint."
            )

    def loss(
        self, model: Any, batch: dict, *, rngs: nnx.Rngs, constants: Any = None
    ) -> tuple[jax.Array, dict]:
        """Returns the mean loss of a training batch and its float32 scalar metrics.

        Args:
          model: Student in the middle of a step.
          batch: Batch of images, and of labels as in `Classification`.
          rngs: Source of dropout.
          constants: Weights of the teacher, (params, batch_stats).
        """
        images, labels = batch["image"], batch["label"]
        teacher_logits, teacher_maps = self.teacher(constants, images)
        features, maps = model.trunk(images, train=True, rngs=rngs)
        if isinstance(model, DeiT) and model.head_dist is not None:
            label_logits, taught_logits = model.classify_by_head(features)
            logits = (label_logits + taught_logits) / 2
        else:
            logits = model.classify(features, train=True, rngs=rngs)
            label_logits = taught_logits = logits
        loss = self.label_loss(label_logits, batch)
        same = jnp.argmax(taught_logits, axis=-1) == jnp.argmax(teacher_logits, axis=-1)
        metrics = accuracy(logits, labels) | {"teacher_agreement": jnp.mean(same)}
        if self.kind != "none":
            taught = jnp.mean(self._teacher_losses(taught_logits, teacher_logits))
            metrics |= {"label_loss": loss, "teacher_loss": taught}
            loss = (1 - self.alpha) * loss + self.alpha * taught
        if self.features != "none":
            ours = getattr(model, PROJECTION)(maps[self.strides[0]])
            theirs = _resize(teacher_maps[self.strides[1]], ours.shape[1:3])
            between = jnp.mean(feature_distillation(ours, theirs, kind=self.features))
            metrics |= {"feature_loss": between}
            loss = loss + self.feature_weight * between
        return loss, metrics

    def _teacher_losses(self, logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
        if self.kind == "hard":
            return hard_distillation(logits, teacher_logits)
        return soft_distillation(logits, teacher_logits, temperature=self.temperature)


def build_with_projection(
    rngs: nnx.Rngs,
    *,
    build: Build,
    width: int,
    teacher_width: int,
    dtype: str,
    param_dtype: str,
) -> nnx.Module:
    """Returns a student with a linear map from its features to the teacher's, `PROJECTION`.

    It is drawn last, so that the student's own initial values are those it has without. It is
    trained and saved in checkpoints as the rest is; whoever reads the run's weights leaves it out.

    Args:
      rngs: Source of the initial values.
      build: Function that builds the student from `nnx.Rngs`.
      width: Number of channels of the student's map.
      teacher_width: Number of channels of the teacher's map.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.

    Source: Romero et al. 2015, FitNets, section 2.2 (the regressor).
    """
    model: Any = build(rngs)
    projection = linear(width, teacher_width, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
    setattr(model, PROJECTION, projection)
    return model


def _resize(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Returns maps [B, h, w, C] of another size, bilinear with antialiasing."""
    if maps.shape[1:3] == tuple(size):
        return maps
    return jax.image.resize(maps, (maps.shape[0], *size, maps.shape[3]), "bilinear")


def _digest(weights: Weights) -> str:
    """Returns the SHA-256 of all arrays of a teacher, with their paths."""
    digest = hashlib.sha256()
    for tree in weights:
        for path, array in sorted(flatten(tree).items()):
            digest.update(f"{path} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
