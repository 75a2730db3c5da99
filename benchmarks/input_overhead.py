"""What an image costs a process of the input pipeline beside the work that cores share.

Threads decode and resize at the same time, but only one of them runs Python. To see what that one
needs on a machine of few cores, decoding and resizing are replaced by sleeps of the same length,
images have one pixel (to copy pixels needs no Python), and the processor time of other calls that
let Python run beside them is taken off. Of workers, that of their parent counts, at 224 pixels.
All is processor time, the lowest of ten blocks: another load on the machine disturbs that less than
the clock, but makes caches cold.
"""

import functools
import os
import time
import zlib
from collections import deque

import cv2
import numpy as np

from jaxvision.data import threads
from jaxvision.data.augment.transforms import train_transform
from jaxvision.data.decode import decode_image
from jaxvision.data.pipeline import train_dataset

BATCH, BLOCKS, BATCHES = 256, 10, 3
SAMPLES = 64  # calls that are timed before the others sleep

_released: deque[float] = deque()  # processor seconds of calls beside which Python runs
_lengths: dict[str, list[float]] = {"decode": [], "resize": []}


def report(source, num_threads, num_workers):
    """Prints a line for each number of threads and of workers."""
    fall_asleep()  # before there are threads
    threads.num_cores = lambda: 64  # so that all the threads are started here, too
    for number in num_threads:
        held = measure(source, size=1, num_threads=number) * 1e3
        beside = " and ".join(f"{np.mean(v) * 1e3:.2f} to {k}" for k, v in _lengths.items())
        print(
            f"{number} threads: {held:.3f} ms of Python an image, so at most {1e3 / held:,.0f} "
            f"images/s a process on many cores (beside it, in ms: {beside})"
        )
    for number in num_workers:
        cost = measure(source, size=224, num_workers=number)
        print(
            f"{number} workers: {cost * 1e3:.4f} ms an image in their parent, so at most "
            f"{1 / cost:,.0f} images/s from any number of them"
        )


def measure(source, *, size, **options):
    """Returns the seconds of Python that an image costs, in the least disturbed block."""
    batches = train_dataset(
        source,
        transform=train_transform(size),
        batch_size=BATCH,
        seed=0,
        decode=decode_asleep,
        **options,
    )
    costs = []
    for block in range(-1, BLOCKS):  # the first one starts threads and processes
        _released.clear()
        start = time.process_time()
        for _ in range(BATCHES):
            next(batches)
        cpu = time.process_time() - start
        if block >= 0:
            costs.append((cpu - sum(_released)) / (BATCHES * BATCH))
    batches.close()
    return min(costs)


def decode_asleep(data):
    """Decodes, in a process whose decoding and resizing sleep."""
    fall_asleep()
    return decode_image(data)


@functools.cache
def fall_asleep():
    """Replaces the functions, once in each process."""
    cv2.imdecode = asleep("decode", cv2.imdecode, lambda first, *_: first)
    cv2.resize = asleep("resize", cv2.resize, lambda _, image, size: blank(size))
    for module, name in ((os, "pread"), (zlib, "crc32"), (time, "sleep")):
        setattr(module, name, released(getattr(module, name)))


def blank(size):
    """Returns an image of (width, height) that cost nothing."""
    return np.zeros((size[1], size[0], 3), np.uint8)


def asleep(name, function, result):
    """Returns a function that takes as long as another, but leaves the processor to others."""
    lengths, first = _lengths[name], []

    def sleeping(*args, **kwargs):
        if len(lengths) < SAMPLES:
            start = time.thread_time()
            first.append(function(*args, **kwargs))
            lengths.append(time.thread_time() - start)
            return first[-1]
        time.sleep(sum(lengths[:SAMPLES]) / SAMPLES)
        return result(first[0], *args)

    return sleeping


def released(function):
    """Returns a function whose processor time counts as that beside which Python runs."""

    def counted(*args, **kwargs):
        start = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            _released.append(time.thread_time() - start)

    return counted
