"""Batches that many threads fill at the same time, through grain."""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from jaxvision.data.types import Batch
from jaxvision.errors import InputError

# Arrays and numpy scalars of each of some examples, by their positions in the order of all.
Examples = Callable[[Sequence[int]], Iterable[dict[str, Any]]]

# Examples that one thread makes in one go. Handing over single examples costs more than decoding a
# small image; whole batches would keep too few threads busy.
_PART_EXAMPLES = 16
# More threads fight over the interpreter: 16 of them on 2 cores were a third slower than 2.
_THREADS_PER_CORE = 2


@dataclass(frozen=True)
class Share:
    """One process's rows of every batch: neighbours, as the device array has them.

    So a row has the same place in the batch, and with it the same dropout and the same partner in
    mixup, however many processes there are.

    Attributes:
      examples: Function that makes examples.
      rows: Places of this process's rows in the batch of all processes.
      batch_size: Number of examples in a batch, over all processes.
      start: Position of the first batch's first example.
      num_batches: Number of batches; None: endless.
    """

    examples: Examples
    rows: Sequence[int]
    batch_size: int
    start: int = 0
    num_batches: int | None = None

    def numbers(self, first: int, step: int) -> range:
        """Returns the numbers of every `step`-th batch, from `first` on."""
        end = self.num_batches
        if end is None:
            end = (sys.maxsize - self.start) // self.batch_size
        return range(first, end, step)


@dataclass(frozen=True)
class Threads:
    """How many threads read how far ahead.

    Attributes:
      num_threads: Number of threads that decode; at most two per core are started.
      prefetch_examples: Number of decoded examples held ready.
    """

    num_threads: int
    prefetch_examples: int

    def start(self, share: Share, first: int = 0, step: int = 1) -> Any:
        """Returns an iterator over every `step`-th batch from `first` on, which is begun."""
        parts = _Parts(share, share.numbers(first, step))
        examples = grain.MapDataset.source(parts).to_iter_dataset(
            grain.ReadOptions(
                num_threads=min(self.num_threads, _THREADS_PER_CORE * num_cores()),
                prefetch_buffer_size=max(self.prefetch_examples // parts.num_examples, 1),
            )
        )
        batches = examples.batch(parts.per_batch, batch_fn=parts.whole)
        # Goes on with the next batch while nobody waits for it.
        ahead = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=1)
        iterator: Any = iter(ahead)
        iterator.start_prefetch()
        return iterator


class _Parts:
    """Random access to the parts of batches, each of which is a few neighbouring rows."""

    def __init__(self, share: Share, numbers: range):
        self._share, self._numbers = share, numbers
        self._size = len(share.rows)
        self.num_examples = min(_PART_EXAMPLES, self._size)
        self.per_batch = -(-self._size // self.num_examples)
        self._begun: dict[int, _Filling] = {}

    def __len__(self) -> int:
        return len(self._numbers) * self.per_batch

    def __getitem__(self, index: int) -> "_Filling":
        place, part = divmod(index, self.per_batch)
        batch = self._begun.setdefault(place, _Filling(place, self._size))
        first, end = (self._size * part // self.per_batch for part in (part, part + 1))
        position = self._share.start + self._numbers[place] * self._share.batch_size
        positions = [position + row for row in self._share.rows[first:end]]
        batch.fill(first, self._share.examples(positions))
        return batch

    def whole(self, parts: "Sequence[_Filling]") -> Batch:
        """Returns the batch whose parts have all been filled."""
        return self._begun.pop(parts[0].place).arrays


class _Filling:
    """A batch that threads fill; its first example shows what the others are like."""

    def __init__(self, place: int, size: int):
        self.place, self._size = place, size
        self.arrays: Batch = {}
        self._lock = threading.Lock()

    def fill(self, first: int, examples: Iterable[dict[str, Any]]) -> None:
        """Puts examples into the rows from `first` on.

        Raises:
          InputError: if two examples of the batch differ in shape or type.
        """
        for row, example in enumerate(examples, first):
            with self._lock:
                if not self.arrays:
                    self.arrays = {
                        key: np.empty((self._size, *value.shape), value.dtype)
                        for key, value in example.items()
                    }
            for key, array in self.arrays.items():
                value = example[key]
                if value.shape != array.shape[1:] or value.dtype != array.dtype:
                    raise InputError(
                        f"All examples of a batch must have one shape and type, but one {key} is "
                        f"{array.dtype} {array.shape[1:]} and another {value.dtype} {value.shape}."
                    )
                array[row] = value


def num_cores() -> int:
    """Returns the cores that this process may use: fewer than the machine has, in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
