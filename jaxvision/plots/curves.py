"""The curves of a run, drawn from its metrics.jsonl."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxvision.errors import InputError
from jaxvision.files import read_metrics
from jaxvision.plots.picture import drawable, save_picture

TRAIN, EVAL, EVAL_EMA, GRID = "#4269d0", "#ff725c", "#3ca951", "#d9d9de"

PERCENT = "percent"  # tick format that chooses its own number of decimals
# Panels: title, unit of the y axis, format of its ticks, and its series as (name, label, colour).
# Of several in one place, the first that a run has data for is drawn.
LOSS = (
    (
        "Loss",
        "nats",
        "{x:g}",
        (
            ("train/loss", "train", TRAIN),
            ("eval/loss", "eval", EVAL),
            ("eval_ema/loss", "eval, averaged weights", EVAL_EMA),
            ("eval_swa/loss", "eval, averaged weights", EVAL_EMA),
            ("eval_schedule_free/loss", "eval, averaged weights", EVAL_EMA),
        ),
    ),
)
QUALITY = (
    (
        "Accuracy of the features",
        "correct",
        PERCENT,
        (
            ("eval/knn_accuracy", "nearest neighbours", TRAIN),
            ("eval/probe_accuracy", "linear probe", EVAL),
            ("eval_ema/knn_accuracy", "nearest neighbours, averaged weights", EVAL_EMA),
        ),
    ),
    (
        "Views that find their image",
        "correct",
        PERCENT,
        (
            ("train/pretext_accuracy", "train", TRAIN),
            ("eval/pretext_accuracy", "eval", EVAL),
            ("train/output_std", "spread of the outputs", EVAL_EMA),
        ),
    ),
    (
        "Accuracy",
        "correct",
        PERCENT,
        (
            ("train/accuracy", "train", TRAIN),
            ("eval/accuracy", "eval", EVAL),
            ("eval_ema/accuracy", "eval, averaged weights", EVAL_EMA),
            ("eval_swa/accuracy", "eval, averaged weights", EVAL_EMA),
            ("eval_schedule_free/accuracy", "eval, averaged weights", EVAL_EMA),
        ),
    ),
    (
        "CIDEr of the captions",
        "CIDEr-D, 1 is 100 in papers",
        "{x:g}",
        (
            ("eval/cider", "eval", EVAL),
            ("eval_ema/cider", "eval, averaged weights", EVAL_EMA),
            ("eval_swa/cider", "eval, averaged weights", EVAL_EMA),
            ("eval_schedule_free/cider", "eval, averaged weights", EVAL_EMA),
        ),
    ),
    (
        "Accuracy of the words",
        "correct",
        PERCENT,
        (
            ("train/token_accuracy", "train", TRAIN),
            ("eval/token_accuracy", "eval", EVAL),
        ),
    ),
)
RATE = (("Learning rate", "rate", "{x:g}", (("train/learning_rate", "rate", TRAIN),)),)
SPEED = (("Throughput", "images / s", "{x:,.0f}", (("train/images_per_second", "train", TRAIN),)),)
# Noisy series: with more points than this they are drawn faint, with a running mean over them.
SMOOTHED = ("train/loss", "train/accuracy", "train/token_accuracy", "train/images_per_second")
SMOOTH_ABOVE = 100


def plot_curves(workdir: str | os.PathLike) -> Path:
    """Draws a run's loss, accuracy, learning rate and throughput; returns the PNG's path.

    The file is `curves.png` in the folder of the run. A series that the run has not written yet is
    left out; values that were not finite leave a gap.

    Raises:
      InputError: if the run has no metrics.jsonl, or nothing is in it yet.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state
    from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

    workdir = Path(workdir)
    records = sorted(read_metrics(workdir), key=lambda record: record["step"])
    if not records:
        raise InputError(f"There are no metrics in {workdir} yet; wait until the run logs a step.")
    figure = Figure(figsize=(11, 7), dpi=120, layout="constrained")
    figure.suptitle(drawable(workdir.resolve().name), fontweight="bold")
    known = {name for record in records for name in record}
    for axes, panels in zip(figure.subplots(2, 2).flat, (LOSS, QUALITY, RATE, SPEED), strict=True):
        fitting = (panel for panel in panels if known & {name for name, *_ in panel[-1]})
        title, unit, tick, series = next(fitting, panels[0])
        drawn = sum(_draw(axes, records, name, label, color) for name, label, color in series)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_ylabel(unit)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        if not drawn:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="grey")
            continue
        axes.grid(color=GRID, linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_major_formatter(
            PercentFormatter(1.0) if tick == PERCENT else StrMethodFormatter(tick)
        )
        if title != "Loss":  # shares and rates are read against zero
            axes.set_ylim(0, 1.06 * axes.dataLim.ymax or 1.0)
        if drawn > 1:
            axes.legend(frameon=False, fontsize=9)
    return save_picture(figure, workdir / "curves.png")


def _draw(axes: Any, records: list[dict[str, Any]], name: str, label: str, color: str) -> bool:
    """Draws one series, and returns whether there was any finite value to draw."""
    points = [record for record in records if name in record]
    steps = [point["step"] for point in points]
    values = np.array([point[name] for point in points], float)  # None becomes NaN
    if np.isnan(values).all():
        return False
    if name in SMOOTHED and len(values) > SMOOTH_ABOVE:
        axes.plot(steps, values, color=color, alpha=0.3, linewidth=1.0)
        axes.plot(steps, _running_mean(values), color=color, label=label, linewidth=1.8)
    else:
        marker = "o" if len(values) <= 30 else None  # a single point has no line
        axes.plot(steps, values, color=color, label=label, marker=marker, ms=3.5, clip_on=False)
    return True


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean of the finite values around each one, a hundredth of them to both sides."""
    window = np.ones(2 * (len(values) // 100) + 1)
    finite = np.isfinite(values)
    counts = np.convolve(finite, window, mode="same")
    sums = np.convolve(np.where(finite, values, 0.0), window, mode="same")
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
