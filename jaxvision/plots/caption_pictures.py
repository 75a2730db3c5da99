"""Pictures of what a captioner says, and of where it looks at each word."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jaxvision.errors import InputError
from jaxvision.plots.picture import drawable, save_picture
from jaxvision.plots.prediction_grid import MAX_IMAGES
from jaxvision.plots.previews import caption_title

COLUMNS = 4
TRUE_COLOR = "#1f5fa8"


def plot_captions(
    images: Sequence[UInt8[np.ndarray, "height width 3"]],
    captions: Sequence[str],
    references: Sequence[str] | None,
    path: str | os.PathLike,
) -> Path:
    """Draws images with their captions in a grid, and returns the PNG's path.

    Args:
      images: RGB images, 1 to 36 of them, of any sizes.
      captions: Captions of the images; long ones are cut.
      references: True captions, one for each image, drawn below it in blue; None: not known.
      path: Path of the PNG; its folder must exist.

    Raises:
      InputError: if there are no images or more than 36, or not a caption for each.
    """
    if not 1 <= len(images) <= MAX_IMAGES or len(captions) != len(images):
        raise InputError(
            f"plot_captions draws 1 to {MAX_IMAGES} images with a caption each, got {len(images)} "
            f"images and {len(captions)} captions."
        )
    from matplotlib.figure import Figure  # without pyplot: no window, no global state
    from matplotlib.patches import Patch

    columns = min(COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(2.9 * columns, 3.7 * rows + 0.3), dpi=110, layout="constrained")
    if references is not None:
        named = (("the model's caption", "black"), ("a true caption", TRUE_COLOR))
        handles = [Patch(color=color, label=label) for label, color in named]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for number, (axes, image, caption) in enumerate(zip(grid, images, captions, strict=False)):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(caption_title(caption), fontsize=9)
        if references is not None:
            below = {"xycoords": "axes fraction", "ha": "center", "va": "top", "color": TRUE_COLOR}
            axes.annotate(caption_title(references[number]), (0.5, -0.02), fontsize=9, **below)
    return save_picture(figure, path)


def plot_attention(
    image: UInt8[np.ndarray, "height width 3"],
    words: Sequence[str],
    weights: Float[np.ndarray, "words rows columns"],
    path: str | os.PathLike,
) -> Path:
    """Draws one panel for each word, the image under where the word was read from.

    Args:
      image: RGB image.
      words: Words of the caption.
      weights: Attention of each word to each cell of a grid over the image; scaled for each word by
        itself.
      path: Path of the PNG; its folder must exist.

    Raises:
      InputError: if there is no word, not a map for each, or a grid of one cell, which every word
        looks at alike.
    """
    if not words or len(weights) != len(words):
        raise InputError(
            f"plot_attention needs a map for each of at least one word, got {len(words)} words and "
            f"{len(weights)} maps."
        )
    check_grid(weights.shape[1:])
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    columns = min(5, len(words) + 1)
    rows = math.ceil((len(words) + 1) / columns)
    height, width = image.shape[:2]
    size = (2.1 * columns, (2.1 * height / width + 0.35) * rows)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    grid[0].imshow(image)
    grid[0].set_title("image", fontsize=9, color="#777777")
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)  # the grid covers the image, cell by cell
    for axes, word, cells in zip(grid[1:], words, weights, strict=False):
        axes.imshow(image)
        axes.imshow(cells, cmap="gray", alpha=0.6, extent=extent, interpolation="bilinear")
        axes.set_title(drawable(word), fontsize=10)
    return save_picture(figure, path)


def attention_overlay(
    image: UInt8[np.ndarray, "height width 3"], cells: Float[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns an image under where a word was read from, as a panel of `plot_attention` has it.

    Args:
      image: RGB image.
      cells: Attention of the word to each cell of a grid over the image.
    """
    height, width = image.shape[:2]
    least, most = float(cells.min()), float(cells.max())
    scaled = 255 * (cells - least) / max(most - least, 1e-12)
    grey = Image.fromarray(scaled.round().astype(np.uint8)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    return (0.4 * image + 0.6 * np.asarray(grey)[..., None]).round().astype(np.uint8)


def check_grid(shape: Sequence[int] | None) -> None:
    """Raises an InputError unless a memory is a grid of more than one cell."""
    if shape is None or math.prod(shape) < 2:
        raise InputError(
            "The decoder sees the image as one vector, so that all attention of every word goes to "
            "it and there is nothing to draw: train with --config.model.kwargs.memory=grid."
        )
