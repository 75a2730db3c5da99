"""How often each record is drawn, where some classes have many more than others."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from jaxvision.data.source import CorruptImageError


@dataclasses.dataclass(frozen=True)
class ClassSampling:
    """Passes over a split in which a class of n records is drawn in proportion to n^power.

    A pass has as many examples as the split has records. In it, the records of a class come equally
    often, give or take one: those of a large class at most once, those of a small one again and
    again. Which those are is drawn anew for each pass, and on average every record comes as often
    as torch's `WeightedRandomSampler` with the weights n^(power - 1) draws it.

    Attributes:
      labels: Class index of each record; below 0: never drawn.
      power: Exponent of a class's records: 1 as they are, 0 all classes equally often.
    """

    labels: Int32[np.ndarray, " records"]
    power: float

    def draw(self, rng: np.random.Generator) -> Int32[np.ndarray, " records"]:
        """Returns the records of one pass, in their order."""
        order = np.argsort(self.labels, kind="stable").astype(np.int32)
        order = order[np.count_nonzero(self.labels < 0) :]
        sizes = np.unique(self.labels[self.labels >= 0], return_counts=True)[1]
        shares = sizes.astype(np.float64) ** self.power
        ends = np.cumsum(shares) / shares.sum() * len(self.labels)
        ends[-1] = len(self.labels)
        # One offset for all: each class has its share, rounded up or down so that it is on average.
        ends = np.floor(ends + rng.random()).astype(np.int64)
        ends[-1] = len(self.labels)
        drawn = []
        for records, count in zip(
            np.split(order, np.cumsum(sizes)[:-1]), np.diff(ends, prepend=0), strict=True
        ):
            times, more = divmod(int(count), len(records))
            drawn += [np.repeat(records, times), rng.permutation(records)[:more]]
        return rng.permutation(np.concatenate(drawn))

    @property
    def digest(self) -> str:
        """What the order of a run depends on beside its seed: labels and power, in short."""
        content = self.labels.astype("<i4").tobytes() + repr(self.power).encode()
        return hashlib.sha256(content).hexdigest()[:16]


def labels_of(source: Any) -> Int32[np.ndarray, " records"]:
    """Returns the label of every record; -1 where it cannot be read.

    Sources that do not know their labels by heart read all records for it.

    Args:
      source: Source of the records, or other records that have a `label`.
    """

    def label(index: int) -> int:
        try:
            return source.label(index)
        except CorruptImageError:
            return -1

    return np.fromiter(map(label, range(len(source))), np.int32, len(source))


def count_labels(
    labels: Int32[np.ndarray, " records"], num_classes: int
) -> Int64[np.ndarray, " classes"]:
    """Returns the number of records of each class."""
    return np.bincount(labels[labels >= 0], minlength=num_classes).astype(np.int64)
