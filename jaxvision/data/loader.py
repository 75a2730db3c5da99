"""How records become examples, and examples batches, in the threads and processes of grain."""

import contextlib
import errno
import functools
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import grain
import numpy as np
from absl import flags

from jaxvision.data.decode import Decode
from jaxvision.data.source import CorruptImageError, DataError, Records
from jaxvision.data.target import Target
from jaxvision.data.types import Batch, Transform
from jaxvision.errors import RunError

# Examples that one thread makes in one go. Handing over single examples costs more than decoding a
# small image; whole batches would keep too few threads busy, and too much memory.
_CHUNK_EXAMPLES = 16
# More threads fight over the interpreter: 16 of them on 2 cores were a third slower than 2.
_THREADS_PER_CORE = 2
_REPLACEMENT_TRIES = 10
# Decoding a 32 x 32 image costs more than all else that is done with it, so small ones are kept.
_SMALL_IMAGE_BYTES = 64 * 64 * 3
_CACHE_BYTES = 2**30
_FULL_SHM = (
    "/dev/shm, the shared memory through which data workers hand over their batches, is full: "
    "remove what is in it, enlarge it (docker run --shm-size=8g), or lower "
    "--config.data.prefetch_examples or --config.data.num_workers (0 does without)"
)


class Loader:
    """Makes the example of one record, in whatever thread or process grain calls it."""

    def __init__(
        self,
        source: Records,
        transform: Transform,
        target: Target,
        decode: Decode,
        later_transforms: Sequence[Transform] = (),
    ):
        self._source = source
        self._transforms = (transform, *later_transforms)
        self._target = target
        self._decode = decode
        self._cache: dict[int, Any] = {}
        self._cached_bytes = 0

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cache": {}, "_cached_bytes": 0}  # not sent to workers

    def for_training(self, element: tuple[int, int], rng: np.random.Generator) -> dict[str, Any]:
        """Returns the augmented example; all of another record where this one is corrupt.

        Args:
          element: Index of the record, and the stage of the run, which selects the transform.
          rng: Random generator of this example.
        """
        index, stage = element
        for candidate in _candidates(index, len(self._source)):
            try:
                record = self._read(candidate)
            except CorruptImageError:
                continue
            example = self._example(candidate, record, rng, self._transforms[stage])
            return example | _marks(index, corrupt=candidate != index)
        raise DataError(
            f"{self._source.describe(index)} is corrupt, and so are all {_REPLACEMENT_TRIES}"
            " records tried in its place; check the whole data set."
        )

    def for_evaluation(self, position: int) -> dict[str, Any]:
        """Returns the example; a masked black image where it is corrupt or past the end."""
        if position >= len(self._source):
            return self._blank | _marks(-1, mask=False)
        try:
            record = self._read(position)
        except CorruptImageError:
            return self._blank | _marks(position, mask=False, corrupt=True)
        return self._example(position, record, None, self._transforms[0]) | _marks(position)

    @functools.cached_property
    def _blank(self) -> dict[str, Any]:
        """Black and no target, of the size that the transform gives."""
        for candidate in _candidates(0, len(self._source)):
            try:
                record = self._read(candidate)
            except CorruptImageError:
                continue
            key, array = _input(record, None, self._transforms[0])
            return {key: np.zeros_like(array)} | self._target.blank()
        raise DataError(
            f"{self._source.describe(0)} is corrupt, and so are {_REPLACEMENT_TRIES} other records;"
            " check the whole data set."
        )

    def _example(
        self, index: int, record: Any, rng: np.random.Generator | None, transform: Transform
    ) -> dict[str, Any]:
        key, array = _input(record, rng, transform)  # draws before the target does
        return {key: array} | self._target(index, record, rng)

    def _read(self, index: int) -> Any:
        """Returns the record, its image decoded."""
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        record = self._source[index]
        image = record.get("image")
        if image is None or isinstance(image, np.ndarray):
            return record
        image = self._decode(image)
        record = {**record, "image": image}
        if image.nbytes <= _SMALL_IMAGE_BYTES and self._cached_bytes < _CACHE_BYTES:
            self._cache[index] = record
            self._cached_bytes += image.nbytes
        return record


def _input(
    record: Any, rng: np.random.Generator | None, transform: Transform
) -> tuple[str, np.ndarray]:
    if "features" in record:
        return "features", record["features"]
    return "image", transform(record["image"], rng)


def _candidates(index: int, num_records: int) -> Iterator[int]:
    """Yields the record itself, then those to try in its place: a function of its index alone."""
    yield index
    yield from np.random.default_rng(index).integers(num_records, size=_REPLACEMENT_TRIES).tolist()


def _marks(index: int, *, mask: bool = True, corrupt: bool = False) -> dict[str, Any]:
    return {"mask": np.bool_(mask), "index": np.int64(index), "corrupt": np.bool_(corrupt)}


@dataclass(frozen=True)
class Reading:
    """How many threads and processes load how far ahead."""

    num_threads: int
    num_workers: int
    prefetch_examples: int

    def batches(self, examples: grain.MapDataset, batch_size: int) -> grain.IterDataset:
        """Returns batches of one process's share of the examples, which come in their order."""
        chunk = max(n for n in range(1, _CHUNK_EXAMPLES + 1) if batch_size % n == 0)
        # No remainder exists; to round up would overflow on the endless training examples.
        chunks = examples.batch(chunk, drop_remainder=True).to_iter_dataset(
            grain.ReadOptions(
                num_threads=min(self.num_threads, _THREADS_PER_CORE * num_cores()),
                prefetch_buffer_size=max(self.prefetch_examples // chunk, 1),
            )
        )
        if self.num_workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain's workers read absl's flags
            resource_tracker.ensure_running()  # or `start` would do it, and unblock its signals
            chunks = chunks.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=self.num_workers),
                worker_init_fn=_end_with_parent,
            )
        batches = chunks.batch(batch_size // chunk, batch_fn=_concatenate)
        # Concatenates in a thread, not in the training loop.
        return grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=1)


class Batches:
    """Iterator over the batches of grain, which says in words why there are no more.

    Args:
      iterator: Iterator of grain, begun.
    """

    def __init__(self, iterator: Any):
        self._iterator = iterator
        self.close = iterator.close

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        with _explained():
            return next(self._iterator)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turns what grain raises about its workers into a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        raise RunError(f"{_FULL_SHM}.") from error
    except RuntimeError as error:
        code = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
        if code is None:
            raise
        raise RunError(_why_killed(int(code[1]))) from error


def _why_killed(code: int) -> str:
    """Returns what ended a worker, by its exit code."""
    if code == -signal.SIGBUS:
        return f"A data worker ended with exit code {code} (SIGBUS): {_FULL_SHM}."
    names = {-number: number.name for number in signal.Signals}
    ended = f"A data worker ended with exit code {code}"
    if code == -signal.SIGKILL:
        return (
            f"{ended} (SIGKILL): where nobody killed it, the memory of this machine was full. "
            "Lower --config.data.num_workers or --config.data.prefetch_examples; the same command "
            "resumes from the newest checkpoint."
        )
    reason = f" ({names[code]})" if code in names else ""
    return (
        f"{ended}{reason}: what it said stands above. --config.data.num_workers=0 reads without "
        "workers; the same command resumes from the newest checkpoint."
    )


def start(batches: grain.IterDataset) -> Batches:
    """Returns the iterator, begun, whose threads and workers leave SIGINT and SIGTERM alone.

    Ctrl-C and a cluster send them to every process of a run. What they mean is for the main thread
    to say: it may need more batches to end well.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        with _explained():
            iterator = iter(batches)
            iterator.start_prefetch()  # threads and processes inherit the mask of who starts them
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return Batches(iterator)


def _concatenate(chunks: Sequence[Batch]) -> Batch:
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}


def _end_with_parent(worker_index: int, worker_count: int) -> None:
    """Ends this worker when its parent is killed; otherwise it would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def num_cores() -> int:
    """Returns the cores that this process may use: fewer than the machine has, in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
