"""Shares of a split, such as `train[:80%]`: every class gives the same share."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxvision.data.sampling import labels_of
from jaxvision.data.source import DataError, Source, Subset

_HELD_OUT = re.compile(r"(?P<percent>[0-9]+(\.[0-9]*)?)%")
_SHARE = re.compile(r"(?P<split>.*)\[(?P<from>[^:\]]*):(?P<to>[^:\]]*)\]")


def parse_share(split: str) -> tuple[str, tuple[float, float] | None]:
    """Returns the name of a split and the percent of its examples, from and to; None: all.

    Args:
      split: Name of a split, or of a share of it: `train[:80%]`, `train[80%:]`, `[10%:20%]`.

    Raises:
      DataError: if a share is not given in percent, or is empty.
    """
    match = _SHARE.fullmatch(split)
    if match is None:
        return split, None
    try:
        low, high = (
            float(bound.removesuffix("%")) if bound.endswith("%") else {"": default}[bound]
            for bound, default in ((match["from"], 0.0), (match["to"], 100.0))
        )
    except (ValueError, KeyError):
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 100:
        raise DataError(
            f"The share of the split {split!r} must be of 0% to 100%, such as 'train[:80%]' and "
            "'train[80%:]'."
        )
    return match["split"], (low, high)


def check_disjoint(train_split: str, eval_split: str) -> None:
    """Checks that shares of one split have no image in common, unless both are the same.

    Args:
      train_split: Split to train on.
      eval_split: Split to evaluate on.

    Raises:
      DataError: if a run would be evaluated on some of the images that it was trained on.
    """
    (split, train), (other, evaluation) = map(parse_share, (train_split, eval_split))
    if split != other or train == evaluation:
        return
    (low, high), (first, last) = train or (0.0, 100.0), evaluation or (0.0, 100.0)
    if max(low, first) < min(high, last):
        raise DataError(
            f"The training split {train_split!r} and the evaluation split {eval_split!r} have "
            f"images in common; give shares that meet, such as '{split}[:80%]' and '{split}[80%:]'."
        )


def held_out(eval_split: str) -> float | None:
    """Returns the percent of the training split that `10%` takes from it; None: another split.

    Args:
      eval_split: Split to evaluate on.

    Raises:
      DataError: if nothing is left, or nothing taken.
    """
    match = _HELD_OUT.fullmatch(eval_split)
    if match is None:
        return None
    percent = float(match["percent"])
    if not 0 < percent < 100:
        raise DataError(
            f"--config.data.eval_split={eval_split} is a share of the training split, and must be"
            " more than 0% and less than 100%, such as 10%."
        )
    return percent


def hold_out(source: Source, percent: float) -> tuple[Source, Source]:
    """Returns the examples of a source to train and to evaluate on, the latter so many percent.

    Both are shares of every class, see `share_of`.

    Args:
      source: Source of all examples.
      percent: Percent of each class that is held out, more than 0 and less than 100.

    Raises:
      DataError: if that is no image at all.
    """
    train, evaluation = _shares(source, [0.0, 100 - percent, 100.0])
    if not (len(train) and len(evaluation)):
        raise DataError(
            f"--config.data.eval_split={percent:g}% is {len(evaluation)} of {len(source)} images,"
            " rounded in each class; give a share that leaves some to both."
        )
    return train, evaluation


def share_of(source: Source, low: int | float, high: int | float) -> Source:
    """Returns the examples of a source between two percentages of each class.

    Each image has its place in its class by its file name, drawn as a hash: the same on every
    machine, and nearly the same after some images were added. They keep the order of the source.
    What two shares have in common is where they overlap; shares from 0 to 100 are the whole.

    Args:
      source: Source of all examples.
      low: Percent of each class before the share.
      high: Percent of each class up to the end of the share.
    """
    return _shares(source, [low, high])[0]


def _shares(source: Source, bounds: Sequence[int | float]) -> list[Source]:
    """Returns the shares between neighbouring percentages of each class."""
    return [Subset(source, some) for some in share_indices(source, bounds)]


def share_indices(source: Any, bounds: Sequence[int | float]) -> list[list[int]]:
    """Returns the records of the shares between neighbouring percentages of each class.

    Args:
      source: Source of all examples, or other records that have a `label` and a `key`.
      bounds: Percentages, ascending.
    """
    labels = labels_of(source)
    places = [_place(source, index) for index in range(len(labels))]
    order = np.array(sorted(range(len(labels)), key=places.__getitem__), int)
    chosen: list[list[int]] = [[] for _ in bounds[1:]]
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        cuts = [round(len(mine) * percent / 100) for percent in bounds]
        for some, first, last in zip(chosen, cuts[:-1], cuts[1:], strict=True):
            some += mine[first:last].tolist()
    return [sorted(some) for some in chosen]


def _place(source: Any, index: int) -> bytes:
    return hashlib.blake2b(
        source.key(index).encode("utf-8", "surrogateescape"), digest_size=16
    ).digest()
