"""A picture of the labels that are said of some images."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxvision.plots.picture import save_picture
from jaxvision.plots.prediction_grid import (
    RIGHT_STYLE,
    TRUE_STYLE,
    WRONG_STYLE,
    short_name,
)

NAMES_SHOWN = 4  # of each kind above an image


def plot_label_sets(
    images: UInt8[np.ndarray, "examples height width 3"],
    labels: Int[np.ndarray, "examples classes"],
    probabilities: Float[np.ndarray, "examples classes"],
    said: Bool[np.ndarray, "examples classes"],
    class_names: Sequence[str],
    path: str | os.PathLike,
    *,
    title: str = "",
) -> Path:
    """Draws images with the labels that are said of them in a grid, and returns the PNG's path.

    Above an image stand the labels that are said with their probabilities, and in red those that
    were missed or said wrongly; an unknown label is neither.

    Args:
      images: RGB images.
      labels: Label of each class: 1 there, 0 not, -1 unknown.
      probabilities: Probability of each class, in 0..1.
      said: Whether each class is said.
      class_names: Names of the classes, by output.
      path: Path of the PNG; its folder must exist.
      title: Title of the picture.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(2.4 * columns, 3.2 * rows), dpi=120, layout="constrained")
    names = list(map(short_name, class_names))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=10)
    for axes, image, truth, shares, is_said in zip(
        grid, images, labels, probabilities, said, strict=False
    ):
        axes.imshow(image, interpolation="nearest")
        order = np.argsort(-shares, kind="stable").tolist()
        guesses = [f"{names[i]} {shares[i]:.0%}" for i in order if is_said[i]]
        missed = [names[i] for i in order if not is_said[i] and truth[i] == 1]
        wrong = [names[i] for i in order if is_said[i] and not truth[i]]
        axes.set_title(_lines(guesses or ["none"]), fontsize=8, pad=34)
        mistakes = [f"missed: {_lines(missed)}"] * bool(missed)
        mistakes += [f"wrong: {_lines(wrong)}"] * bool(wrong)
        text = "\n".join(mistakes) or "all right"
        style = WRONG_STYLE if mistakes else RIGHT_STYLE
        axes.annotate(text, (0.5, 1.02), xycoords="axes fraction", **TRUE_STYLE, **style)
    return save_picture(figure, path)


def _lines(names: list[str]) -> str:
    """Returns the first names, two a line, and how many more there are."""
    shown = names[:NAMES_SHOWN]
    if len(names) > NAMES_SHOWN:
        shown[-1] = f"{len(names) - NAMES_SHOWN + 1} more"
    return "\n".join(", ".join(shown[i : i + 2]) for i in range(0, len(shown), 2))
