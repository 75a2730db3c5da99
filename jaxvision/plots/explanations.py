"""Pictures of what a model looks at: maps over the image, and attention by layer and head."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from jaxvision.errors import InputError
from jaxvision.plots.picture import drawable, save_picture


def plot_explanations(
    image: UInt8[np.ndarray, "height width 3"],
    titles: Sequence[str],
    maps: Mapping[str, Sequence[Float[np.ndarray, "rows columns"]]],
    path: str | os.PathLike,
) -> Path:
    """Draws a row for each class, the image and each method's map over it, side by side.

    The image under a map is grey. Each map is scaled by itself; of maps of pixels the highest
    hundredth has one colour.

    Args:
      image: RGB image.
      titles: Titles of the rows: name and probability of each class.
      maps: Maps of each method, one for each title.
      path: Path of the PNG; its folder must exist.

    Raises:
      InputError: if there is no title or no map, or not a map for each title.
    """
    if not titles or not maps or any(len(each) != len(titles) for each in maps.values()):
        raise InputError(
            f"plot_explanations needs a map of every method for each of at least one title, got"
            f" {len(titles)} titles and {[len(each) for each in maps.values()]} maps."
        )
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    columns = len(maps) + 1
    height, width = image.shape[:2]
    size = (2.3 * columns, (2.3 * height / width + 0.35) * len(titles))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    grid = figure.subplots(len(titles), columns, squeeze=False)
    for row, (axes_of_row, title) in enumerate(zip(grid, titles, strict=True)):
        axes_of_row[0].imshow(image)
        axes_of_row[0].set_title(drawable(title), fontsize=9)
        for axes, (method, cells) in zip(axes_of_row[1:], maps.items(), strict=True):
            draw_over(axes, image, cells[row])
            axes.set_title(drawable(method), fontsize=9)
    for axes in grid.ravel():
        axes.set_axis_off()
    return save_picture(figure, path)


def draw_over(axes, image: np.ndarray, cells: np.ndarray) -> None:
    """Draws a map over the image in grey.

    Args:
      axes: Axes of matplotlib.
      image: RGB image [height, width, 3].
      cells: Map [rows, columns] that covers the image.
    """
    height, width = image.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)  # the grid covers the image, cell by cell
    axes.imshow(image @ np.array([0.299, 0.587, 0.114]), cmap="gray", vmin=0, vmax=255)
    # A few pixels with large attributions would leave all others dark.
    most = np.percentile(cells, 99) if cells.shape == image.shape[:2] else cells.max()
    axes.imshow(
        cells, cmap="viridis", alpha=0.6, extent=extent, interpolation="bilinear", vmax=float(most)
    )


def plot_heads(
    layers: Sequence[Float[np.ndarray, "heads rows columns"]], path: str | os.PathLike
) -> Path:
    """Draws the attention of each head, a row for each layer, the first on top.

    Each map is scaled by itself.

    Args:
      layers: Maps of the heads of each layer.
      path: Path of the PNG; its folder must exist.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    columns = max(len(heads) for heads in layers)
    size = (1.1 * columns + 0.6, 1.1 * len(layers) + 0.4)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    grid = figure.subplots(len(layers), columns, squeeze=False)
    for number, (axes_of_row, heads) in enumerate(zip(grid, layers, strict=True)):
        for head, axes in enumerate(axes_of_row):
            axes.set_axis_off()
            if head < len(heads):
                axes.imshow(heads[head], cmap="viridis", interpolation="nearest")
                axes.set_title(f"layer {number}, head {head}", fontsize=6)
    return save_picture(figure, path)
