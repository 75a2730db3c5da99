"""Images of many requests, computed together."""

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from jaxvision.serving.engine import Asked, Engine, Row
from jaxvision.terminal import clock, counted

logger = logging.getLogger(__name__)

NO_MAPS = Asked()
TIMED = 3  # calls of each size, of which the fastest counts


@dataclasses.dataclass(frozen=True)
class _Waiting:
    pixels: np.ndarray
    asked: Asked
    future: Future


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Returns 1, 2, 4, ... up to a size, and that size."""
    return (*(1 << i for i in range((largest - 1).bit_length())), largest)


class Batcher:
    """Computes what waits as one batch, and the next one when that is done.

    Nobody waits for a batch to fill: alone, an image is computed at once; while a batch is
    computed, the next one gathers. Batches have a few sizes, each compiled once and timed; the one
    is taken that computes the most of the waiting images in a second, filled up with black ones. A
    GPU takes them all, as it has time for more; a CPU has none for black images.

    Args:
      engine: Model that computes.
      sizes: Sizes of batches, ascending.

    Attributes:
      sizes: Sizes of batches, ascending.
      seconds: Time of a batch of each size, known after `start`.
    """

    def __init__(self, engine: Engine, sizes: Sequence[int]):
        self._engine, self.sizes = engine, tuple(sizes)
        self.seconds = dict.fromkeys(self.sizes, 1.0)
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        """Compiles all sizes, which may take minutes, and begins to compute."""
        every, begun = frozenset(self._engine.maps), time.monotonic()
        for size in counted(self.sizes, len(self.sizes), "Compiling batches"):
            pixels = np.stack([self._engine.blank] * size)
            self._engine.compute(pixels, [Asked(every)])
            self.seconds[size] = min(self._time(pixels) for _ in range(TIMED))
        sizes = ", ".join(map(str, self.sizes))
        logger.info("Compiled batches of %s in %s.", sizes, clock(time.monotonic() - begun))
        threading.Thread(target=self._work, name="batches", daemon=True).start()

    def _time(self, pixels: np.ndarray) -> float:
        begun = time.perf_counter()
        self._engine.compute(pixels, [NO_MAPS] * len(pixels))
        return time.perf_counter() - begun

    def size_for(self, waiting: int) -> int:
        """Returns the size of the batch that is computed when so many images wait."""
        return max(self.sizes, key=lambda size: min(waiting, size) / self.seconds[size])

    def submit(self, pixels: np.ndarray, asked: Asked = NO_MAPS) -> "Future[Row]":
        """Returns what will be computed of an image.

        Args:
          pixels: Pixels as the model sees them, uint8.
          asked: What is asked of it, beside the answer.
        """
        future: Future[Row] = Future()
        with self._changed:
            self._waiting.append(_Waiting(pixels, asked, future))
            self._changed.notify()
        return future

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                size = self.size_for(len(self._waiting))
                taken = [self._waiting.popleft() for _ in range(min(size, len(self._waiting)))]
            taken = [each for each in taken if each.future.set_running_or_notify_cancel()]
            if taken:
                self._compute(taken, size)

    def _compute(self, taken: list[_Waiting], size: int) -> None:
        blank = [self._engine.blank] * (size - len(taken))
        try:
            pixels = np.stack([*(each.pixels for each in taken), *blank])
            rows = self._engine.compute(pixels, [each.asked for each in taken])
        except BaseException as error:  # of XLA, above all no memory: the next batch may do
            for each in taken:
                each.future.set_exception(error)
            return
        for each, row in zip(taken, rows, strict=False):
            each.future.set_result(row)
