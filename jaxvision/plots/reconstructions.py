"""Pictures of what a masked autoencoder sees, and of what it makes of it."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from jaxvision.plots.picture import save_picture

MASKED = 128  # grey


def plot_reconstructions(
    images: UInt8[np.ndarray, "images height width 3"],
    masked: Bool[np.ndarray, "images height width"],
    guessed: UInt8[np.ndarray, "images height width 3"],
    path: str | os.PathLike,
) -> Path:
    """Draws a column for each image: it, what is seen of it, the guess; returns the PNG's path.

    Args:
      images: RGB images.
      masked: Mask, True where a pixel was not seen.
      guessed: Guess of all pixels; those that were seen are shown as they are.
      path: Path of the PNG; its folder must exist.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    hidden = masked[..., None]
    rows = {
        "image": images,
        "what is seen": np.where(hidden, np.uint8(MASKED), images),
        "what comes back": np.where(hidden, guessed, images),
    }
    count = len(images)
    figure = Figure(figsize=(1.5 * count + 0.6, 4.8), dpi=110, layout="constrained")
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        for axes, picture in zip(line, pictures, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(name, fontsize=9)
    return save_picture(figure, path)
