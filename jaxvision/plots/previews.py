"""Pictures of a run before it begins: its learning rate, and the images that it will see."""

import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, UInt8

from jaxvision.plots.curves import GRID, TRAIN
from jaxvision.plots.picture import drawable, save_picture
from jaxvision.plots.prediction_grid import short_name

MAX_POINTS = 2_000  # of the drawn schedule; more than the picture has pixels
SHOWN_SHARE = 0.005  # of a class in a mixed label; less would be shown as 0.00
TITLE_CHARACTERS = 34  # that fit above an image


def plot_schedule(
    schedule: Callable, *, total_steps: int, steps_per_epoch: float, path: str | os.PathLike
) -> Path:
    """Draws the learning rate of every step, and returns the PNG's path.

    Steps are counted as in metrics.jsonl: step 1 is the first update.

    Args:
      schedule: Function from the number of completed updates to the learning rate.
      total_steps: Number of updates of the run.
      steps_per_epoch: Number of updates in an epoch, for the second axis; need not be whole.
      path: Path of the PNG; its folder must exist.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    done = np.unique(np.linspace(0, total_steps - 1, MAX_POINTS).astype(np.int32))
    rates = np.asarray(jax.vmap(schedule)(done))
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(done + 1, rates, color=TRAIN, marker="o" if len(done) <= 30 else None, ms=3.5)
    axes.set_title(
        f"Learning rate: {rates[0]:.3g} at first, {rates.max():.3g} at most, "
        f"{rates[-1]:.3g} at the end",
        loc="left",
        fontsize=10,
    )
    axes.set_xlabel("step")
    axes.set_ylim(0, 1.06 * rates.max() or 1.0)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines["right"].set_visible(False)
    epochs = axes.secondary_xaxis(
        "top",
        functions=(
            lambda step: np.divide(step, steps_per_epoch),
            lambda epoch: np.multiply(epoch, steps_per_epoch),
        ),
    )
    epochs.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    return save_picture(figure, path)


def plot_samples(
    images: UInt8[np.ndarray, "steps examples height width 3"],
    titles: Sequence[Sequence[str]],
    path: str | os.PathLike,
    *,
    row_names: Sequence[str],
) -> Path:
    """Draws images as a model sees them, row by row, and returns the PNG's path.

    Args:
      images: RGB images, without normalisation.
      titles: Title of each image, drawn above it; see `class_shares` and `caption_title`.
      path: Path of the PNG; its folder must exist.
      row_names: Name of each row, such as "step 1".
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    steps, examples, height, width, _ = images.shape
    title_height = 0.2 + 0.15 * max(title.count("\n") + 1 for row in titles for title in row)
    size = (2.0 * examples + 0.3, (2.0 * height / width + title_height) * steps)  # inches
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    for step, row in enumerate(figure.subplots(steps, examples, squeeze=False)):
        for axes, image, title in zip(row, images[step], titles[step], strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.set_title(title, fontsize=8)
        row[0].set_ylabel(row_names[step], fontsize=9)
    return save_picture(figure, path)


def caption_title(caption: str) -> str:
    """Returns a caption in lines that fit above an image; what is too much is cut."""
    lines = textwrap.wrap(caption, TITLE_CHARACTERS, max_lines=3, placeholder=" …")
    return "\n".join(map(drawable, lines))


def class_shares(shares: Float[np.ndarray, " classes"], class_names: Sequence[str]) -> str:
    """Returns `cat`, or `cat 0.70 / dog 0.30` for a mixed label."""
    shown = [k for k in map(int, np.argsort(-shares)[:2]) if shares[k] >= SHOWN_SHARE]
    if len(shown) == 1:
        return short_name(class_names[shown[0]])
    parts = [f"{short_name(class_names[k])} {shares[k]:.2f}" for k in shown]
    return (" / " if len(" / ".join(parts)) <= TITLE_CHARACTERS else "\n").join(parts)
