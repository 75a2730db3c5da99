"""A picture of what a classifier says about some images."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxvision.errors import InputError
from jaxvision.files import save_figure

MAX_IMAGES = 36  # more would be too small to judge
TRUE_STYLE = {
    "ha": "center",
    "va": "bottom",
    "fontsize": 8,
    "fontweight": "bold",
    "color": "#c1121f",
}
NAME_CHARACTERS = 18  # of a class name


def plot_predictions(
    images: UInt8[np.ndarray, "examples height width 3"],
    labels: Int[np.ndarray, " examples"],
    probabilities: Float[np.ndarray, "examples classes"],
    class_names: Sequence[str],
    path: str | os.PathLike,
) -> Path:
    """Draws images with their predicted classes in a grid, and returns the PNG's path.

    Above an image stands the predicted class with its probability, and where that is wrong the
    true class, in red.

    Args:
      images: RGB images, 1 to 36 of them.
      labels: True class indices of the images.
      probabilities: Probabilities of the classes, in 0..1.
      class_names: Names of the classes, by label; long ones are cut.
      path: Path of the PNG; its folder must exist.

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
    for axes, image, label, shares in zip(grid, images, labels, probabilities, strict=False):
        guess = int(np.argmax(shares))
        axes.imshow(image, interpolation="nearest")
        axes.set_title(f"{short_name(class_names[guess])} {shares[guess]:.0%}", fontsize=8, pad=14)
        if guess != label:  # in the gap between title and image
            true_name = f"true: {short_name(class_names[int(label)])}"
            axes.annotate(true_name, (0.5, 1.02), xycoords="axes fraction", **TRUE_STYLE)
    return save_figure(figure, path)


def short_name(name: str) -> str:
    """Returns a class name, cut to about the width of an image."""
    return name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "…"
