"""How records become examples, and examples batches, in the threads and processes of grain."""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import grain
import numpy as np
from absl import flags

from jaxvision.data.decode import decode_image
from jaxvision.data.image import Batch, Transform
from jaxvision.data.source import CorruptImageError, DataError, Source

# Examples that one thread makes in one go. Handing over single examples costs more than decoding a
# small image; whole batches would keep too few threads busy, and too much memory.
_CHUNK_EXAMPLES = 16
# More threads fight over the interpreter: 16 of them on 2 cores were a third slower than 2.
_THREADS_PER_CORE = 2
_REPLACEMENT_TRIES = 10
# Decoding a 32 x 32 image costs more than all else that is done with it, so small ones are kept.
_SMALL_IMAGE_BYTES = 64 * 64 * 3
_CACHE_BYTES = 2**30


class Loader:
    """Makes the example of one record, in whatever thread or process grain calls it."""

    def __init__(self, source: Source, transform: Transform, max_pixels: int):
        self._source = source
        self._transform = transform
        self._max_pixels = max_pixels
        self._cache: dict[int, tuple[np.ndarray, int]] = {}
        self._cached_bytes = 0

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cache": {}, "_cached_bytes": 0}  # not sent to workers

    def for_training(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Returns the augmented example; another record's image where this one is corrupt."""
        for candidate in _candidates(index, len(self._source)):
            try:
                image, label = self._read(candidate)
            except CorruptImageError:
                continue
            image = self._transform(image, rng)
            return _example(image, label, index=index, corrupt=candidate != index)
        raise DataError(
            f"{self._source.describe(index)} is corrupt, and so are all {_REPLACEMENT_TRIES}"
            " records tried in its place; check the whole data set."
        )

    def for_evaluation(self, position: int) -> dict[str, Any]:
        """Returns the example; a masked black image where it is corrupt or past the end."""
        if position >= len(self._source):
            return _example(self._blank, 0, index=-1, mask=False)
        try:
            image, label = self._read(position)
        except CorruptImageError:
            return _example(self._blank, 0, index=position, mask=False, corrupt=True)
        return _example(self._transform(image, None), label, index=position)

    @functools.cached_property
    def _blank(self) -> np.ndarray:
        """A black image of the size that the transform gives."""
        for candidate in _candidates(0, len(self._source)):
            try:
                return np.zeros_like(self._transform(self._read(candidate)[0], None))
            except CorruptImageError:
                continue
        raise DataError(
            f"{self._source.describe(0)} is corrupt, and so are {_REPLACEMENT_TRIES} other records;"
            " check the whole data set."
        )

    def _read(self, index: int) -> tuple[np.ndarray, int]:
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        example = self._source[index]
        image, label = example["image"], example["label"]
        if not 0 <= label < len(self._source.class_names):
            raise DataError(
                f"{self._source.describe(index)} has the label {label}, but there are"
                f" {len(self._source.class_names)} classes, so labels are 0 to"
                f" {len(self._source.class_names) - 1}; correct the data."
            )
        if isinstance(image, np.ndarray):
            return image, label
        image = decode_image(image, max_pixels=self._max_pixels)
        if image.nbytes <= _SMALL_IMAGE_BYTES and self._cached_bytes < _CACHE_BYTES:
            self._cache[index] = image, label
            self._cached_bytes += image.nbytes
        return image, label


def _candidates(index: int, num_records: int) -> Iterator[int]:
    """Yields the record itself, then those to try in its place: a function of its index alone."""
    yield index
    yield from np.random.default_rng(index).integers(num_records, size=_REPLACEMENT_TRIES).tolist()


def _example(
    image: np.ndarray, label: int, *, index: int, mask: bool = True, corrupt: bool = False
) -> dict[str, Any]:
    return {
        "image": image,
        "label": np.int32(label),
        "mask": np.bool_(mask),
        "index": np.int64(index),
        "corrupt": np.bool_(corrupt),
    }


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


def start(batches: grain.IterDataset) -> Any:
    """Returns the iterator, begun, whose threads and workers leave SIGINT and SIGTERM alone.

    Ctrl-C and a cluster send them to every process of a run. What they mean is for the main thread
    to say: it may need more batches to end well.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        iterator = iter(batches)
        iterator.start_prefetch()  # threads and processes inherit the mask of who starts them
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return iterator


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
