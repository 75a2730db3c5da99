"""A picture of what a classifier says about some images."""

import collections
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxvision.errors import InputError
from jaxvision.plots.picture import drawable, save_picture

MAX_IMAGES = 36  # more would be too small to judge
TRUE_STYLE = {"ha": "center", "va": "bottom", "fontsize": 8}
RIGHT_STYLE, WRONG_STYLE = {"color": "#2b7a3d"}, {"color": "#c1121f", "fontweight": "bold"}
NAME_CHARACTERS = 18  # of a class name


def plot_predictions(
    images: UInt8[np.ndarray, "examples height width 3"],
    labels: Int[np.ndarray, " examples"],
    probabilities: Float[np.ndarray, "examples classes"],
    class_names: Sequence[str],
    path: str | os.PathLike,
    *,
    corrupt: Bool[np.ndarray, " examples"] | None = None,
    title: str = "",
) -> Path:
    """Draws images with their predicted classes in a grid, and returns the PNG's path.

    Above an image stands the predicted class with its probability, and the true class, in red where
    that is another one.

    Args:
      images: RGB images, 1 to 36 of them.
      labels: True class indices of the images.
      probabilities: Probabilities of the classes, in 0..1.
      class_names: Names of the classes, by label; long ones are cut.
      path: Path of the PNG; its folder must exist.
      corrupt: Whether each image could not be decoded, so that nothing was predicted; None: no one.
      title: Title of the picture.

    Raises:
      InputError: if there are no images or more than 36, or the number of names, labels or
        probabilities does not fit.
    """
    count = len(images)
    if not 1 <= count <= MAX_IMAGES:
        raise InputError(f"plot_predictions draws 1 to {MAX_IMAGES} images, got {count}.")
    expected = (count, len(class_names))
    if len(labels) != count or probabilities.shape != expected:
        raise InputError(
            f"For {count} images and {len(class_names)} class names, labels must have shape "
            f"({count},) and probabilities {expected}, "
            f"got {labels.shape} and {probabilities.shape}."
        )
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(2.0 * columns, 2.45 * rows), dpi=120, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=10)
    corrupt = np.zeros(count, bool) if corrupt is None else corrupt
    rows_of_all = zip(grid, images, labels, probabilities, corrupt, strict=False)
    for axes, image, label, shares, is_corrupt in rows_of_all:
        guess = int(np.argmax(shares))
        axes.imshow(image, interpolation="nearest")
        text, style = f"{short_name(class_names[guess])} {shares[guess]:.0%}", RIGHT_STYLE
        if is_corrupt:
            text = "corrupt image"
        elif guess != label:
            style = WRONG_STYLE
        axes.set_title(text, fontsize=8, pad=14)
        true_name = f"true: {short_name(class_names[int(label)])}"  # between title and image
        axes.annotate(true_name, (0.5, 1.02), xycoords="axes fraction", **TRUE_STYLE, **style)
    return save_picture(figure, path)


def short_name(name: str) -> str:
    """Returns a class name, cut to about the width of an image."""
    cut = name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "…"
    return drawable(cut)


def worst_by_class(
    probabilities: Float[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
    count: int,
) -> list[int]:
    """Returns the examples to look at: of each class as many, the worst mistakes first.

    The less likely a model finds the true class, the worse; right answers come after all mistakes.

    Args:
      probabilities: Probabilities of the classes, in 0..1.
      labels: True class indices of the examples.
      count: Number of examples to choose, at most.
    """
    true = np.nan_to_num(probabilities[np.arange(len(labels)), labels])
    right = np.argmax(probabilities, axis=-1) == labels
    order = np.lexsort((true, right)).tolist()
    seen: collections.Counter = collections.Counter()
    rounds = {}
    for example in order:
        rounds[example] = seen[labels[example]]
        seen[labels[example]] += 1
    chosen = set(sorted(order, key=rounds.__getitem__)[:count])  # stable: the worst of each round
    return [example for example in order if example in chosen]
