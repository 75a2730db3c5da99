"""A finished run, or published weights, and single images: the door from Python."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import Array, Float

from jaxvision.data.decode import decode_image, rgb_pixels
from jaxvision.data.source import DataError
from jaxvision.data.types import Transform
from jaxvision.errors import InputError, reason
from jaxvision.evaluation.predict import Guess, guesses
from jaxvision.interop.trained import Trained, evaluation_transform, open_trained
from jaxvision.models.registry import get_spec
from jaxvision.models.spec import ModelSpec
from jaxvision.train.input import make_preprocess

Picture = str | os.PathLike | PIL.Image.Image | np.ndarray | jax.Array


class OpenRun:
    """A classifier with its weights, its preprocessing and the names of its classes.

    Attributes:
      model: Model with its weights, in evaluation.
      spec: Row of the model.
      class_names: Names of the classes by label; empty if nobody knows them.
    """

    def __init__(self, trained: Trained):
        self.model, self.spec, self.class_names = trained.model, trained.spec, trained.class_names
        self._transform = trained.transform

    def preprocess(
        self, images: Picture | Sequence[Picture]
    ) -> Float[Array, "batch height width 3"]:
        """Returns what the model takes; see `jv.preprocess`."""
        return _preprocess(images, self._transform, self.spec)

    def predict(self, image: Picture, *, top: int = 5) -> tuple[Guess, ...]:
        """Returns the most probable classes of an image, the best first.

        Args:
          image: Path of an image, an image of Pillow, or pixels [height, width, 3] of uint8.
          top: Number of classes.

        Raises:
          InputError: if the image cannot be used.
        """
        if top < 1:
            raise InputError(f"top is a number of classes, at least 1, got {top}.")
        images = self.preprocess(image)
        if len(images) != 1:
            raise InputError(f"predict takes one image, got {len(images)}: call it for each.")
        values, indices = self._best(images)
        return guesses(np.asarray(values[0, :top]), np.asarray(indices[0, :top]), self.class_names)

    @functools.cached_property
    def _best(self) -> Any:
        """The compiled function from images to probabilities and labels, the best first."""

        @jax.jit
        def best(model: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            probabilities = jax.nn.softmax(model(images))
            values, indices = jax.lax.top_k(probabilities, probabilities.shape[-1])
            return values, indices

        return functools.partial(best, self.model)


def open_run(path: str | os.PathLike, name: str | None = None) -> OpenRun:
    """Returns a classifier that is ready for images.

    Args:
      path: Path of a run's folder, of one of its checkpoints, or of a file of weights.
      name: Name of the model; None: of a run, its own.

    Raises:
      InputError: if there is no such run or file, or it is not of a classifier.
    """
    trained = open_trained(os.fspath(path), name)
    get_spec(trained.spec.name, task="classification")
    return OpenRun(trained)


def preprocess(
    images: Picture | Sequence[Picture], name: str
) -> Float[Array, "batch height width 3"]:
    """Returns images as the published weights of a model want them: resized, cropped, normalised.

    Args:
      images: Path of an image, an image of Pillow, or pixels [height, width, 3] of uint8; or
        several of these, or pixels [batch, height, width, 3].
      name: Name of the model, see `get_spec`.

    Raises:
      InputError: if there is no such model, or an image cannot be used.
    """
    spec = get_spec(name)
    return _preprocess(images, evaluation_transform(spec), spec)


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
