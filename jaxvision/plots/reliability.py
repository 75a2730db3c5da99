"""A picture of how often a classifier is right where it is how sure."""

import os
from pathlib import Path
from typing import Any

from jaxvision.plots.curves import EVAL, GRID, TRAIN
from jaxvision.plots.picture import save_picture


def plot_reliability(calibration: dict[str, Any], path: str | os.PathLike) -> Path:
    """Draws the reliability diagrams before and after the temperature; returns the PNG's path.

    A bar is the accuracy in a bin of confidence; on the diagonal, a model is right as often as it
    says. Below stands the share of the images in each bin.

    Args:
      calibration: Entry "calibration" of `classification_scores`.
      path: Path of the PNG; its folder must exist.

    Source: Guo et al. 2017, figures 1 and 4.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(9, 5.6), dpi=120, layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
    temperature = calibration["temperature"]
    for column, (title, suffix) in enumerate(
        (("As trained", ""), (f"Temperature {temperature:.3g}", "_after_temperature"))
    ):
        upper, lower = panels[:, column]
        table = calibration[f"reliability{suffix}"]
        middles = [(row["lower"] + row["upper"]) / 2 for row in table]
        width = 0.92 * (table[0]["upper"] - table[0]["lower"])
        upper.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
        upper.bar(middles, [row["accuracy"] or 0.0 for row in table], width=width, color=TRAIN)
        filled = [row for row in table if row["count"]]
        upper.plot(
            [row["confidence"] for row in filled],
            [row["accuracy"] for row in filled],
            linestyle="",
            marker="o",
            ms=3.5,
            color=EVAL,
        )
        upper.set_title(f"{title}: ECE {calibration[f'ece{suffix}']:.2%}", loc="left", fontsize=11)
        upper.set_ylabel("right")
        total = sum(row["count"] for row in table)
        lower.bar(middles, [row["count"] / total for row in table], width=width, color="grey")
        lower.set_ylabel("of the images")
        lower.set_xlabel("confidence")
        for axes in (upper, lower):
            axes.set(xlim=(0, 1), ylim=(0, 1))
            axes.grid(color=GRID, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    return save_picture(figure, path)
