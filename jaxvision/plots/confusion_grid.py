"""A picture of which classes a classifier takes for which."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxvision.plots.picture import save_picture
from jaxvision.plots.prediction_grid import short_name

MAX_CELLS = 25  # classes; the cells of more would be too small to read
MAX_PAIRS = 25
MISTAKE, SHARE = "#c1121f", "#d9d9de"


def plot_confusion(scores: dict[str, Any], path: str | os.PathLike) -> Path:
    """Draws the confusion matrix, or of many classes the most common mistakes; returns the path.

    A cell has the number of images of the true class (row) that were predicted as the column's, and
    its colour is their share of the row. With more than 25 classes, each of the 25 most common
    mistakes has a bar instead.

    Args:
      scores: Scores of `classification_scores`.
      path: Path of the PNG; its folder must exist.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    classes = scores["classes"]
    few = len(classes) <= MAX_CELLS
    side = max(4.0, 0.42 * len(classes) + 2.5)
    size = (side, side) if few else (10.0, 8.0)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.subplots()
    (_draw_matrix if few else _draw_pairs)(axes, scores)
    return save_picture(figure, path)


def _draw_matrix(axes: Any, scores: dict[str, Any]) -> None:
    counts = np.array(scores["confusion"]["matrix"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=7, color=color)
    names = [short_name(entry["class"]) for entry in scores["classes"]]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"Accuracy {scores['accuracy']:.2%}", loc="left", fontsize=11)


def _draw_pairs(axes: Any, scores: dict[str, Any]) -> None:
    pairs = scores["confusion"]["most_confused"][:MAX_PAIRS]
    axes.set_title(
        f"Accuracy {scores['accuracy']:.2%}: the most common mistakes", loc="left", fontsize=11
    )
    axes.spines[["top", "right"]].set_visible(False)
    if not pairs:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no mistakes", transform=axes.transAxes, ha="center", color="grey")
        return
    names = [f"{short_name(p['true'])} → {short_name(p['predicted'])}" for p in pairs]
    places = range(len(pairs))
    axes.barh(places, [p["of"] for p in pairs], color=SHARE, label="images of the class")
    axes.barh(places, [p["count"] for p in pairs], color=MISTAKE, label="taken for the other")
    for place, pair in zip(places, pairs, strict=True):
        axes.annotate(
            f"{pair['count']:,}", (pair["count"], place), (3, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("images")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
