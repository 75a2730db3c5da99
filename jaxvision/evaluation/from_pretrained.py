"""A finished run, or published weights, and single images: the door from Python."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageOps
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.data.decode import decode_image, rgb_pixels
from jaxvision.data.source import DataError
from jaxvision.data.types import Transform
from jaxvision.errors import InputError, reason
from jaxvision.evaluation.predict import Guess, guesses, labels_said
from jaxvision.interop.pretrained import get_weights, is_tag
from jaxvision.interop.trained import (
    Trained,
    check_classifier,
    open_trained,
    wanted_size,
    weights_transform,
)
from jaxvision.models.registry import get_spec
from jaxvision.models.spec import Model, ModelSpec
from jaxvision.options.size import Size
from jaxvision.train.input import make_preprocess

Picture = str | os.PathLike | PIL.Image.Image | np.ndarray | jax.Array


class Classifier:
    """A classifier with its weights, its preprocessing and the names of its classes.

    Attributes:
      model: Model with its weights, in evaluation.
      spec: Row of the model, with the preprocessing of the weights.
      class_names: Names of the classes by label; empty if nobody knows them.
      thresholds: Probability of each class from which on it is said, where images have several
        labels; None: they have one.
    """

    def __init__(self, trained: Trained):
        self.thresholds = trained.thresholds
        self.model, self.spec, self.class_names = trained.model, trained.spec, trained.class_names
        self._transform = trained.transform

    def __repr__(self) -> str:
        classes = f"{len(self.class_names)} classes" if self.class_names else "no class names"
        return f"Classifier({self.spec.name}, {classes})"

    def preprocess(
        self, images: Picture | Sequence[Picture]
    ) -> Float[Array, "batch height width 3"]:
        """Returns what the model takes; see `jv.preprocess`."""
        return _preprocess(images, self._transform, self.spec)

    def predict(self, image: Picture, *, top: int = 5) -> tuple[Guess, ...]:
        """Returns the most probable classes of an image, the best first.

        Where images have several labels, those are returned that are said.

        Args:
          image: Path of an image, an image of Pillow, or pixels [height, width, 3] of uint8.
          top: Number of classes; without effect where images have several labels.

        Raises:
          InputError: if the image cannot be used.
        """
        if top < 1:
            raise InputError(f"top is a number of classes, at least 1, got {top}.")
        images = self.preprocess(image)
        if len(images) != 1:
            raise InputError(f"predict takes one image, got {len(images)}: call it for each.")
        if self.thresholds is not None:
            logits = np.asarray(self._logits(images)[0], np.float32)
            return labels_said(logits, self.thresholds, self.class_names)
        values, indices = self._best(images)
        return guesses(np.asarray(values[0, :top]), np.asarray(indices[0, :top]), self.class_names)

    @functools.cached_property
    def _logits(self) -> Any:
        """The compiled function from images to logits."""
        return functools.partial(jax.jit(lambda model, images: model(images)), self.model)

    @functools.cached_property
    def _best(self) -> Any:
        """The compiled function from images to probabilities and labels, the best first."""

        @jax.jit
        def best(model: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            probabilities = jax.nn.softmax(model(images))
            values, indices = jax.lax.top_k(probabilities, probabilities.shape[-1])
            return values, indices

        return functools.partial(best, self.model)


def from_pretrained(weights: str | os.PathLike, name: str | None = None) -> Classifier:
    """Returns a classifier that is ready for images.

    Args:
      weights: Tag of published weights, "resnet50.a1_in1k"; repository of the Hugging Face hub,
        "hub:timm/resnet50.a1_in1k"; path of a run's folder, of one of its checkpoints, or of a file
        of weights.
      name: Name of the model; None: the one that the weights tell.

    Raises:
      InputError: if there are no such weights, or they are not of a classifier.
    """
    trained = open_trained(os.fspath(weights), name)
    check_classifier(trained, weights)
    return Classifier(trained)


def preprocess(
    images: Picture | Sequence[Picture], model: str | nnx.Module
) -> Float[Array, "batch height width 3"]:
    """Returns images as the weights of a model want them: resized, cropped, normalised.

    Args:
      images: Path of an image, an image of Pillow, or pixels [height, width, 3] of uint8; or
        several of these, or pixels [batch, height, width, 3].
      model: Model with loaded weights; tag of published weights; or name of a model, for those that
        were published first.

    Raises:
      InputError: if there is no such model, nobody tells what its weights want, or an image cannot
        be used.
    """
    if not isinstance(model, str):
        spec, size = _pixels_of_model(model)
    elif is_tag(model):
        row = get_weights(model)
        if row.preprocess is None or row.image_size is None:
            raise InputError(
                f"The repository of {model} says how images are prepared: use"
                f" from_pretrained({model!r}).preprocess."
            )
        spec, size = (
            dataclasses.replace(get_spec(row.model), preprocess=row.preprocess),
            row.image_size,
        )
    else:
        spec = get_spec(model)
        size = spec.image_size
    return _preprocess(images, weights_transform(spec, size), spec)


def _pixels_of_model(model: nnx.Module) -> tuple[ModelSpec, Size]:
    if not isinstance(model, Model) or model.preprocess is None or model.spec_name is None:
        raise InputError(
            "This model has no weights that tell how images are prepared: give its name instead,"
            " or that of its weights, jv.preprocess(images, 'resnet50')."
        )
    spec = dataclasses.replace(get_spec(model.spec_name), preprocess=model.preprocess)
    return spec, wanted_size(model, spec)


def _preprocess(
    images: Picture | Sequence[Picture], transform: Transform, spec: ModelSpec
) -> Float[Array, "batch height width 3"]:
    rows: Any = images
    several = isinstance(images, Sequence) and not isinstance(images, str)
    if isinstance(images, np.ndarray | jax.Array):
        several = images.ndim == 4
    pixels = [transform(_pixels(image), None) for image in (rows if several else [rows])]
    if not pixels:
        raise InputError("Expected at least one image, got none.")
    normalise = make_preprocess(mean=spec.preprocess.mean, std=spec.preprocess.std)
    return normalise(jnp.asarray(np.stack(pixels)))


def _pixels(image: Any) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        try:
            with open(os.path.expanduser(image), "rb") as file:
                return decode_image(file.read(), exif_orientation=True)
        except (DataError, OSError) as error:
            raise InputError(
                f"{os.fspath(image)} cannot be used: {reason(error)}".rstrip(".") + "."
            ) from error
    if isinstance(image, PIL.Image.Image):
        try:
            return rgb_pixels(PIL.ImageOps.exif_transpose(image))
        except DataError as error:
            raise InputError(f"The image cannot be used: {error}.") from error
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise InputError(
            "Expected the path of an image, an image of Pillow or RGB pixels [height, width, 3] of "
            f"uint8, got {type(image).__name__} of {pixels.dtype} and shape {pixels.shape}."
        )
    return pixels
