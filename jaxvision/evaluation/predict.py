"""What a trained model says about images."""

import csv
import dataclasses
import functools
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.data.augment.compose import Compose
from jaxvision.data.augment.crops import Resize
from jaxvision.data.augment.views import with_views
from jaxvision.data.class_lists import readable
from jaxvision.data.classes import read_class_names
from jaxvision.data.decode import MAX_PIXELS, decode_image
from jaxvision.data.image_files import ImageFile
from jaxvision.data.types import Transform
from jaxvision.errors import InputError, printable, reason
from jaxvision.evaluation.outputs import mean_of_views
from jaxvision.interop.trained import Trained
from jaxvision.metrics.multi_label import sigmoid
from jaxvision.train.input import make_preprocess


@dataclasses.dataclass(frozen=True)
class Guess:
    """One class of one image.

    Attributes:
      index: Index of the class.
      name: Name of the class; None if nobody knows it.
      probability: Probability of the class, in 0..1.
    """

    index: int
    name: str | None
    probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One image.

    Attributes:
      image: Path of the image.
      guesses: Most probable classes, the best first; of a model of several labels an image those
        that are said, which may be none. Empty if the image cannot be used.
      error: Reason why the image cannot be used; None if it can.
    """

    image: str
    guesses: tuple[Guess, ...]
    error: str | None = None


def predict(
    trained: Trained,
    images: Sequence[ImageFile],
    *,
    class_names: tuple[str, ...] = (),
    top: int = 5,
    threshold: float | None = None,
    batch_size: int = 32,
    views: str = "none",
) -> Iterator[Prediction]:
    """Yields a prediction for each image, in their order.

    Args:
      trained: Model and its preprocessing.
      images: Images to classify; those that cannot be decoded come back with an error.
      class_names: Names of the classes by label; classes beyond them have no name.
      top: Number of guesses for each image, the most probable classes; without effect on a model
        of several labels an image.
      threshold: Probability from which on a class is said, of a model of several labels an image;
        None: the model's own, of each class.
      batch_size: Number of images that are computed at once.
      views: Views of each image whose logits are averaged, one of `options.run.VIEWS`.
    """
    if trained.thresholds is None:
        compute_pixels = best_classes(trained, top=top, views=views)
    else:
        compute_pixels = _logits(trained, views)

    def compute(pixels: jax.Array, first: int) -> tuple[jax.Array, ...]:
        del first
        return compute_pixels(pixels)

    transform = with_views(trained.transform, views)
    if views in ("five_crop", "ten_crop") and not _leaves_a_border(trained.transform):
        raise InputError(
            f"The views {views} are cut out of larger images, but these weights see the whole: "
            "choose none, flip or flip_shift."
        )

    for image, pixels, answer in in_batches(images, transform, compute, batch_size):
        if isinstance(pixels, str):
            yield Prediction(image.name, (), pixels)
        elif trained.thresholds is not None:
            said = labels_said(answer[0], trained.thresholds, class_names, threshold)
            yield Prediction(image.name, said)
        else:
            values, indices = answer
            yield Prediction(image.name, guesses(values, indices, class_names))


def _leaves_a_border(transform: Transform) -> bool:
    """Returns whether the crop at the end of a transform leaves something out."""
    assert isinstance(transform, Compose)
    *resizes, crop = transform.operations
    pairs = [one.size for one in resizes if isinstance(one, Resize) and isinstance(one.size, tuple)]
    return not pairs or min(pairs[-1]) > min(crop.size)


def best_classes(
    trained: Trained, *, top: int | None = None, views: str = "none"
) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns the compiled function from pixels to the most probable classes, the best first.

    Args:
      trained: Model and its preprocessing.
      top: Number of classes of each image, at most; None: all.
      views: Views of each image whose logits are averaged, one of `options.run.VIEWS`.

    Returns:
      Function (uint8 [b, height, width, 3]) -> (probabilities, labels), both [b, classes].

    Raises:
      InputError: for a model of several labels an image, whose probabilities do not sum to 1.
    """
    if trained.thresholds is not None:
        raise InputError(
            f"{trained.spec.name} was trained on several labels an image, of which none is the "
            "best: `jaxvision predict` says which of them there are."
        )
    preprocess_fn = make_preprocess(
        mean=trained.spec.preprocess.mean, std=trained.spec.preprocess.std
    )

    @jax.jit
    def run(model: Any, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = mean_of_views(lambda view: model(preprocess_fn(view)), pixels, views)
        probabilities = jax.nn.softmax(logits)
        classes = probabilities.shape[-1]
        values, indices = jax.lax.top_k(probabilities, min(top or classes, classes))
        return values, indices

    return functools.partial(run, trained.model)


def _logits(trained: Trained, views: str) -> Callable[[jax.Array], tuple[jax.Array]]:
    """Returns the compiled function from pixels to the logits, float32 [b, classes]."""
    preprocess_fn = make_preprocess(
        mean=trained.spec.preprocess.mean, std=trained.spec.preprocess.std
    )

    @jax.jit
    def run(model: Any, pixels: jax.Array) -> tuple[jax.Array]:
        logits = mean_of_views(lambda view: model(preprocess_fn(view)), pixels, views)
        return (logits.astype(jnp.float32),)

    return functools.partial(run, trained.model)


def read_classes(path: str, trained: Trained) -> tuple[str, ...]:
    """Returns the class names in a text file, one a line.

    Raises:
      InputError: if there is no such file, or it has another number of names than the model has
        classes.
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"There is no file of class names {path}.")
    names, classes = read_class_names(file), trained.model.config.num_classes
    if len(names) != classes:
        raise InputError(
            f"{path} has {len(names)} lines, but the weights have {classes} classes: give one name "
            "a line."
        )
    return names


def prediction_lines(prediction: Prediction, form: str) -> list[str]:
    """Returns what is printed for an image.

    Args:
      prediction: Prediction of the image.
      form: Format of the lines: "text" (nothing for a failed image), "json" (one object) or "csv"
        (a row for each class).
    """
    if form == "json":
        return [json.dumps(dataclasses.asdict(prediction))]
    if form == "csv":
        buffer = io.StringIO()
        csv.writer(buffer).writerows(
            (prediction.image, rank, guess.index, guess.name, f"{guess.probability:.6f}")
            for rank, guess in enumerate(prediction.guesses, start=1)
        )
        return buffer.getvalue().splitlines()
    if prediction.error:
        return []
    texts = [f"{guess.probability:.4f} {guess.name or guess.index}" for guess in prediction.guesses]
    return [printable(f"{prediction.image}: {', '.join(texts) or 'none'}")]


def labels_said(
    logits: np.ndarray,
    thresholds: Sequence[float],
    class_names: tuple[str, ...],
    threshold: float | None = None,
) -> tuple[Guess, ...]:
    """Returns the classes that are said of an image which may have several, the best first.

    Args:
      logits: Logit of each class.
      thresholds: Probability of each class from which on it is said.
      class_names: Names of the classes by label; classes beyond them have no name.
      threshold: Probability for all classes instead; None: that of each.
    """
    probabilities = sigmoid(logits[None])[0]
    said = np.flatnonzero(
        probabilities >= (np.array(thresholds) if threshold is None else threshold)
    )
    said = said[np.argsort(-probabilities[said], kind="stable")]
    return guesses(probabilities[said], said, class_names)


def guesses(
    values: np.ndarray, indices: np.ndarray, class_names: tuple[str, ...]
) -> tuple[Guess, ...]:
    """Returns the guesses of an image.

    Args:
      values: Probability of each, the best first.
      indices: Class of each.
      class_names: Names of the classes by label; classes beyond them have no name.
    """
    class_names = readable(class_names)
    return tuple(
        Guess(index, class_names[index] if index < len(class_names) else None, value)
        for value, index in zip(values.tolist(), indices.tolist(), strict=True)
    )


def in_batches(
    images: Sequence[ImageFile],
    transform: Transform,
    compute: Callable[[jax.Array, int], tuple[jax.Array, ...]],
    batch_size: int,
) -> Iterator[tuple[ImageFile, np.ndarray | str, tuple[np.ndarray, ...]]]:
    """Yields (image, its pixels or an error, what was computed of it), in their order.

    Args:
      images: Images to decode.
      transform: Resize and crop of an image.
      compute: Function (pixels uint8 [b, height, width, 3], number of usable images before) ->
        arrays [b, ...]. The last batch is filled up with black images: one shape, one program.
      batch_size: Number of images in a batch, at most.
    """
    size, number = min(batch_size, len(images)), 0
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        for group, decoded in _decoded_ahead(pool, images, size, transform):
            usable = [pixels for pixels in decoded if isinstance(pixels, np.ndarray)]
            answers: Iterator[tuple[np.ndarray, ...]] = iter(())
            if usable:
                blank = [np.zeros_like(usable[0])] * (size - len(usable))
                outputs = compute(jnp.asarray(np.stack([*usable, *blank])), number)
                answers = zip(*map(np.asarray, outputs), strict=True)
            number += len(usable)
            for image, pixels in zip(group, decoded, strict=True):
                yield image, pixels, () if isinstance(pixels, str) else next(answers)


def pixels_of(
    image: ImageFile, transform: Transform, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray | str:
    """Returns an image as a model sees it, upright, or the sentence why it cannot be used.

    Args:
      image: Image to decode.
      transform: Resize and crop of an image.
      max_pixels: Largest number of pixels of the encoded image, see `decode_image`.
    """
    try:
        data = image.read()
        if not isinstance(data, np.ndarray):
            data = decode_image(data, max_pixels=max_pixels, exif_orientation=True)
        return transform(data, None)
    except (InputError, OSError) as error:
        return f"{image.name} cannot be used: {reason(error)}".rstrip(".") + "."


def _decoded_ahead(
    pool: ThreadPoolExecutor, images: Sequence[ImageFile], size: int, transform: Transform
) -> Iterator[tuple[Sequence[ImageFile], list[np.ndarray | str]]]:
    """Yields groups of images with their pixels or errors; the next group is decoded meanwhile."""
    pending: tuple[Sequence[ImageFile], list[Future]] | None = None
    for first in range(0, len(images), size):
        group = images[first : first + size]
        futures = [pool.submit(pixels_of, image, transform) for image in group]
        if pending is not None:
            yield pending[0], [future.result() for future in pending[1]]
        pending = group, futures
    if pending is not None:
        yield pending[0], [future.result() for future in pending[1]]
