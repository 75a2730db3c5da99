"""Distillation: an image classifier that learns from the labels and from a teacher."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision.layers.linear import linear
from jaxvision.metrics.distillation import (
    feature_distillation,
    hard_distillation,
    soft_distillation,
)
from jaxvision.models.deit import DeiT
from jaxvision.models.image_model import PROJECTION
from jaxvision.tasks.classification import Classification, accuracy

LOSSES = ("soft", "hard", "none")
FEATURES = ("none", "mse", "cosine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """A classifier in inference mode, whose weights are handed to it at every call.

    Attributes:
      graphdef: of the model.
      scale: of each channel, from the student's pixels to the teacher's.
      shift: of each channel, added afterwards.
      image_size: pixels (height, width) that it sees.
    """

    graphdef: nnx.GraphDef
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    image_size: tuple[int, int]

    def __call__(self, weights: Any, images: jax.Array) -> tuple[jax.Array, dict[int, jax.Array]]:
        """Returns the logits [B, K] and the maps of all stages by their stride.

        Args:
          weights: (params, batch_stats).
          images: [B, H, W, C], normalised for the student.
        """
        scale, shift = (jnp.asarray(x, images.dtype) for x in (self.scale, self.shift))
        images = _resize(
            images * scale[None, None, None] + shift[None, None, None], self.image_size
        )
        model: Any = nnx.merge(self.graphdef, *weights, copy=True)
        features, maps = model.trunk(images)
        return model.classify(features), maps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(Classification):
    """Loss of a student: (1 - alpha) of the labels, alpha of the teacher, and that of features.

    The teacher sees what the student sees, augmented and mixed. A model with a distillation token
    learns the labels by its first head and the teacher by its second; any other has one head for
    both. Evaluation is that of a classifier, without the teacher.

    Attributes:
      teacher: whose weights are the constants of the step.
      kind: `soft`: the teacher's probabilities; `hard`: its first choice; `none`: neither.
      alpha: the teacher's share, in [0, 1]; without effect where the kind is `none`.
      temperature: of `soft`.
      features: `mse` or `cosine`, between maps of both, or `none`. With them the student has a
        linear map to the teacher's width, see `build_with_projection`.
      feature_weight: of the loss of the features.
      strides: pixels, of the student's map and of the teacher's.

    Source: Hinton et al. 2015 (soft); Touvron et al. 2021, DeiT, section 4 (hard, token); Romero et
      al. 2015, FitNets (features).
    """

    teacher: Teacher
    kind: str = "soft"
    alpha: float = 0.5
    temperature: float = 1.0
    features: str = "none"
    feature_weight: float = 1.0
    strides: tuple[int, int] = (0, 0)

    def loss(self, model: Any, batch: dict, *, rngs: nnx.Rngs, constants: Any = None) -> tuple:
        """Returns the mean loss of a training batch and its float32 scalar metrics.

        Args:
          model: the student.
          batch: images, and labels as of `Classification`.
          rngs: of dropout.
          constants: the teacher's (params, batch_stats).
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
        loss = jnp.mean(self.label_losses(label_logits, labels))
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
    build: Callable[[nnx.Rngs], Any],
    width: int,
    teacher_width: int,
    dtype: str,
    param_dtype: str,
) -> nnx.Module:
    """Returns a student with a linear map from its features to the teacher's, `PROJECTION`.

    It is drawn last, so that the student's own initial values are those it has without. It is
    trained and saved in checkpoints as the rest is; whoever reads the run's weights leaves it out.

    Args:
      rngs: source of the initial values.
      build: makes the student.
      width: channels of the student's map.
      teacher_width: channels of the teacher's.
      dtype: compute dtype.
      param_dtype: dtype of the parameters.

    Source: Romero et al. 2015, FitNets, section 2.2 (the regressor).
    """
    model = build(rngs)
    projection = linear(width, teacher_width, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
    setattr(model, PROJECTION, projection)
    return model


def _resize(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Returns maps [B, h, w, C] of another size, bilinear with antialiasing."""
    if maps.shape[1:3] == tuple(size):
        return maps
    return jax.image.resize(maps, (maps.shape[0], *size, maps.shape[3]), "bilinear")
