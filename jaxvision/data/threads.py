"""Batches that many threads fill at the same time."""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

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

    def batches(self, share: Share, first: int = 0, step: int = 1) -> Iterator[Batch]:
        """Yields every `step`-th batch from `first` on, while the threads make those behind it."""
        ahead = max(self.prefetch_examples // len(share.rows), 1)
        num_threads = max(min(self.num_threads, _THREADS_PER_CORE * num_cores()), 1)
        pool = ThreadPoolExecutor(num_threads, initializer=_leave_signals)
        begun: deque[_Filling] = deque()
        try:
            for number in share.numbers(first, step):
                begun.append(_Filling(share, number, pool))
                if len(begun) > ahead:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Filling:
    """A batch that the threads of a pool fill; its first example shows what the others are like."""

    def __init__(self, share: Share, number: int, pool: ThreadPoolExecutor):
        self._share, self._start = share, share.start + number * share.batch_size
        self._arrays: Batch = {}
        self._lock = threading.Lock()
        parts = range(0, len(share.rows), _PART_EXAMPLES)
        self._parts: list[Future] = [pool.submit(self._fill, first) for first in parts]

    def result(self) -> Batch:
        """Returns the batch when it is full.

        Raises:
          InputError: if two of its examples differ in shape or type.
        """
        for part in self._parts:
            part.result()
        return self._arrays

    def _fill(self, first: int) -> None:
        rows = self._share.rows[first : first + _PART_EXAMPLES]
        examples = self._share.examples([self._start + row for row in rows])
        for row, example in enumerate(examples, first):
            with self._lock:
                if not self._arrays:
                    size = len(self._share.rows)
                    self._arrays = {
                        key: np.empty((size, *value.shape), value.dtype)
                        for key, value in example.items()
                    }
            for key, array in self._arrays.items():
                value = example[key]
                if value.shape != array.shape[1:] or value.dtype != array.dtype:
                    raise InputError(
                        f"All examples of a batch must have one shape and type, but one {key} is "
                        f"{array.dtype} {array.shape[1:]} and another {value.dtype} {value.shape}."
                    )
                array[row] = value


def _leave_signals() -> None:
    """Leaves SIGINT and SIGTERM to the main thread, which may need more batches to end well."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))


def num_cores() -> int:
    """Returns the cores that this process may use: fewer than the machine has, in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
