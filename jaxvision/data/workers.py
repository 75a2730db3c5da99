"""Processes that make batches, and the memory through which they hand them over.

A worker copies each of its batches into a piece of memory that its parent maps too, and fills the
piece again once nothing there refers to the batch. The pieces have no names: they are gone with
their processes, however those end, and the size of /dev/shm, 64 MB in a container, is no limit.
"""

import atexit
import contextlib
import mmap
import multiprocessing
import os
import pickle
import queue
import signal
import tempfile
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Iterator
from multiprocessing import reduction, resource_tracker
from multiprocessing.connection import Connection
from typing import NoReturn

import numpy as np

from jaxvision.data.threads import Share, Threads
from jaxvision.data.types import Batch
from jaxvision.errors import RunError

_ALIGNMENT = 64  # bytes; JAX on a CPU uses arrays of this alignment without a copy
_Layout = dict[str, tuple[np.dtype, tuple[int, ...], int]]  # type, shape and first byte


class Workers:
    """Iterator over the batches that processes make in turns.

    Args:
      share: Examples and batches to make.
      threads: Threads of each process.
      num_workers: Number of processes; no more are started than there are batches.
    """

    def __init__(self, share: Share, threads: Threads, num_workers: int):
        import cloudpickle  # a run without workers does without it

        numbers = share.numbers(0, 1)
        self._numbers = iter(numbers)
        num_workers = min(num_workers, len(numbers))
        work = cloudpickle.dumps((share, threads))
        self._workers: list[_Worker] = []
        # Workers that ignore SIGTERM would keep multiprocessing waiting at the interpreter's exit.
        atexit.register(self.close)
        # Ctrl-C and a cluster send signals to every process of a run. What they mean is for the
        # main thread to say: it may need more batches to end well.
        resource_tracker.ensure_running()  # or a worker's start would, and unblock the signals
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:  # processes inherit the mask
            for first in range(num_workers):
                self._workers.append(_Worker(work, first, num_workers))
        except BaseException:
            self.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def __iter__(self) -> "Workers":
        return self

    def __next__(self) -> Batch:
        number = next(self._numbers)
        try:
            return self._workers[number % len(self._workers)].take()
        except BaseException:
            self._numbers = iter(())
            raise

    def close(self) -> None:
        """Ends the processes. Batches that were taken stay as they are."""
        if self._workers:  # at the exit, atexit may be gone when an iterator is closed again
            atexit.unregister(self.close)
        while self._workers:
            self._workers.pop().end()


class _Worker:
    """A process that makes batches, as its parent sees it."""

    def __init__(self, work: bytes, first: int, step: int):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, work, first, step), name=f"data-worker-{first}", daemon=True
        )
        self._process.start()
        theirs.close()  # so that the connection ends with the process
        self._pieces: dict[int, mmap.mmap] = {}
        self._free: deque[int] = deque()  # pieces that nothing refers to any more

    def take(self) -> Batch:
        """Returns the worker's next batch, and lets it hand over one more.

        Raises:
          RunError: if the process has ended.
        """
        free = [self._free.popleft() for _ in range(len(self._free))]
        try:
            self._connection.send(free)
            error, number, is_new, layout = self._connection.recv()
            if is_new:
                file = reduction.recv_handle(self._connection)
                self._pieces[number] = mmap.mmap(file, 0)
                os.close(file)
        except (EOFError, ConnectionError) as ended:
            self._process.join()
            raise RunError(_why_ended(self._process.exitcode)) from ended
        if error is not None:
            raise error
        piece = np.frombuffer(self._pieces[number], np.uint8)
        weakref.finalize(piece, self._free.append, number).atexit = False
        return _arrays(piece, layout)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def _work(connection: Connection, work: bytes, first: int, step: int) -> None:
    """Runs in the worker process, until its parent closes the connection or ends."""
    asked: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(connection, asked), daemon=True)
    listener.start()
    with contextlib.suppress(ConnectionError):
        try:
            share, threads = pickle.loads(work)
            _hand_over(threads.batches(share, first, step), connection, asked)
        except Exception as error:
            error.add_note(f"In a data worker:\n{traceback.format_exc()}")
            connection.send((_portable(error), -1, False, {}))
    listener.join()


def _listen(connection: Connection, asked: "queue.SimpleQueue[list[int]]") -> NoReturn:
    """Takes what the parent asks for, and ends the process where the parent has gone."""
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            asked.put(connection.recv())
    os._exit(1)


def _hand_over(
    batches: Iterator[Batch], connection: Connection, asked: "queue.SimpleQueue[list[int]]"
) -> None:
    """Sends batches to the parent, where one more than it has asked for waits."""
    pieces: dict[int, mmap.mmap] = {}
    free: list[int] = []
    for place, batch in enumerate(batches):
        if place:
            free += asked.get()
        layout, size = _layout(batch)
        number = free.pop() if free else len(pieces)
        is_new = number not in pieces or len(pieces[number]) < size
        file = _memory(size) if is_new else -1
        if is_new:
            pieces[number] = mmap.mmap(file, size)
        for key, array in _arrays(np.frombuffer(pieces[number], np.uint8), layout).items():
            array[...] = batch[key]
        connection.send((None, number, is_new, layout))
        if is_new:
            reduction.send_handle(connection, file, os.getppid())
            os.close(file)


def _memory(size: int) -> int:
    """Returns a file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("jaxvision-batch")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.truncate(file, size)
    return file


def _layout(batch: Batch) -> tuple[_Layout, int]:
    """Returns where the arrays of a batch are in a piece of memory, and its bytes."""
    layout: _Layout = {}
    size = 0
    for key, array in batch.items():
        layout[key] = array.dtype, array.shape, size
        size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    return layout, size


def _arrays(piece: np.ndarray, layout: _Layout) -> Batch:
    return {
        key: np.ndarray(shape, dtype, piece, offset)
        for key, (dtype, shape, offset) in layout.items()
    }


def _portable(error: Exception) -> Exception:
    """Returns the error, or its text in a RuntimeError where it does not survive pickling."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _why_ended(code: int | None) -> str:
    """Returns what ended a worker, by its exit code."""
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
