"""The memory that the steps of a run need on one device, without allocating any."""

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxvision.options.size import Size, sides
from jaxvision.train.monitor import STEPS_IN_FLIGHT
from jaxvision.train.run import Run
from jaxvision.train.sharding import batch_sharding

Bytes = int | float  # infinite for a step that finds no room

SEARCH_COMPILATIONS = 3  # for the largest batch, beside that of the config's own


class StepMemory:
    """Compiles the steps of a run for shapes, and tells the memory that they need on one device.

    Args:
      run: Run whose steps are compiled, for the devices of its mesh.
      compiler_options: Options of XLA, by name.

    Attributes:
      compile_seconds: Seconds of each compilation so far.
      program: Program that was compiled last; None: there was no room for it.
    """

    def __init__(self, run: Run, *, compiler_options: Mapping[str, Any] | None = None):
        self.run = run
        self._state = run.abstract_state
        self._compiler_options = dict(compiler_options or {})
        self.compile_seconds: list[float] = []
        self.program: Any = None
        self._train_step: Any = run.train_step()
        self._eval_step: Any = run.eval_step()

    @property
    def image_sizes(self) -> list[Size]:
        """The sizes of the training images, the largest last."""
        sizes = dict.fromkeys(size for _, size in self.run.image_sizes)
        return sorted(sizes, key=lambda size: math.prod(sides(size)))

    def state_parts(self) -> dict[str, Bytes]:
        """Returns the bytes of what stays on a device from the first step to the last."""
        state, constants = self._state, self.run.abstract_constants
        parts: dict[str, Bytes] = {
            "parameters": _device_bytes(state.params),
            "optimizer state": _device_bytes(state.opt_state),
            "averaged weights": _device_bytes((state.ema_params, state.ema_batch_stats)),
            "BatchNorm statistics": _device_bytes(state.batch_stats),
        }
        return parts if constants is None else parts | {"teacher": _device_bytes(constants)}

    def train(self, batch_size: int, image_size: Size | None = None) -> dict[str, Bytes]:
        """Returns the bytes of each part during a training step; infinite if it cannot compile.

        Args:
          batch_size: Number of images of one step, over all devices.
          image_size: Size of the training images in pixels, one side or (height, width); None: the
            largest of the run.
        """
        batch = self.batch_of_training(batch_size, image_size or self.image_sizes[-1])
        constants = self.run.abstract_constants
        lowered = self._train_step.lower(self._state, batch, constants)
        waiting = STEPS_IN_FLIGHT * _device_bytes(batch)
        return self._parts(lowered, (self._state, constants), waiting=waiting)

    def eval(self, batch_size: int) -> dict[str, Bytes]:
        """Returns the same of an evaluation step, during which the whole state stays in place."""
        weights = self._state.params, self._state.batch_stats
        batch, train_batch = (
            self.batch(batch_size),
            self.batch_of_training(self.run.options.batch_size, self.image_sizes[-1]),
        )
        return self._parts(
            self._eval_step.lower(*weights, batch),
            weights,
            waiting=_device_bytes(batch) + STEPS_IN_FLIGHT * _device_bytes(train_batch),
        )

    def batch(
        self, batch_size: int, image_size: Size | None = None
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns a batch of shapes.

        Args:
          batch_size: Number of images, over all devices.
          image_size: Size of the images in pixels, one side or (height, width); None: that of an
            evaluation.
        """
        sharding = batch_sharding(self.run.mesh)
        shapes = {key: x.shape[1:] for key, x in self.run.batch_shapes.items()}
        if image_size is not None and "image" in shapes:
            shapes["image"] = (*sides(image_size), 3)
        return {
            key: jax.ShapeDtypeStruct((batch_size, *shapes[key]), x.dtype, sharding=sharding)
            for key, x in self.run.batch_shapes.items()
        }

    def batch_of_training(
        self, batch_size: int, image_size: Size
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a training batch as it is sent: larger where the devices crop.

        Args:
          batch_size: Number of images, over all devices.
          image_size: Size of the images that the model sees in pixels, one side or (height, width).
        """
        height, width = sides(self.run.options.augment.stored_size or image_size)
        return self.batch(batch_size, (height * self.run.task.data.views, width))

    def _parts(self, lowered: Any, weights: Any, *, waiting: int) -> dict[str, Bytes]:
        """Compiles, and splits XLA's sizes, which are those of one device.

        Args:
          lowered: Lowered step, not yet compiled.
          weights: Arguments of the step without the batch.
          waiting: Bytes of the batches that are on the device without being in use.
        """
        parts = self.state_parts()
        counters = _device_bytes((self._state, self.run.abstract_constants)) - sum(parts.values())
        batches, rest = waiting, counters
        self.program = None
        start = time.perf_counter()
        try:
            self.program = lowered.compile(self._compiler_options)
            sizes = self.program.memory_analysis()
            batches += sizes.argument_size_in_bytes - _device_bytes(weights)
            temporary = sizes.temp_size_in_bytes
            # A donated argument is an output, too: that is `alias`.
            rest += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
            rest += sizes.generated_code_size_in_bytes
        except jax.errors.JaxRuntimeError as error:  # some compilers refuse what has no room
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            temporary = math.inf
        self.compile_seconds.append(time.perf_counter() - start)
        return parts | {
            "batches, with those sent ahead": batches,
            "activations and gradients": temporary,
            "metrics, counters, program": rest,
        }


def _device_bytes(tree: Any) -> int:
    """Returns the bytes that a tree of abstract arrays takes on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def device_memory() -> Bytes:
    """Returns the bytes of one device that programs may use; for a CPU, its share of the RAM."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return ram / jax.local_device_count()


def largest_batch(
    memory_at: Callable[[int], Bytes],
    known: Mapping[int, Bytes],
    *,
    limit: Bytes,
    unit: int,
    greatest: int,
) -> tuple[int, Bytes]:
    """Returns the largest batch size found to need at most `limit` bytes, and what it needs.

    Memory is nearly affine in the batch size, so each guess lies on the line through the two
    measured sizes next to the limit. What is returned was measured, too; size 0 if none fits.

    Args:
      memory_at: Function from a batch size to bytes; called 3 times at most.
      known: Bytes by batch size: one size that was measured, and {0: bytes of the state}.
      limit: Bytes that may be used, at least those of the state.
      unit: Number that batch sizes are multiples of.
      greatest: Largest batch size to look at, a multiple of `unit`.
    """
    known = dict(known)
    for _ in range(SEARCH_COMPILATIONS):
        fits = max(size for size, needed in known.items() if needed <= limit)
        above = min((size for size in known if size > fits), default=greatest + unit)
        if above - fits <= unit:
            break
        low, high = _next_to_limit(sorted(known), fits)
        if known[low] < known[high] < math.inf:
            slope = (known[high] - known[low]) / (high - low)
            guess = int((low + (limit - known[low]) / slope) // unit) * unit
        else:
            guess = (fits + above) // 2 // unit * unit
        guess = min(max(guess, fits + unit), above - unit)
        known[guess] = memory_at(guess)
    fits = max(size for size, needed in known.items() if needed <= limit)
    return fits, known[fits]


def _next_to_limit(sizes: list[int], fits: int) -> tuple[int, int]:
    """Returns two of the sorted sizes; 0, which was not compiled, only where there is no other."""
    if len(sizes) == 2:
        return sizes[0], sizes[1]
    place = sizes.index(fits)
    first = min(max(place, 1), len(sizes) - 2)
    return sizes[first], sizes[first + 1]


def memory_table(columns: Mapping[str, Mapping[str, Bytes]]) -> str:
    """Returns an aligned text table of parts in bytes, with their total."""
    names = [*next(iter(columns.values())), "total"]
    cells = [
        [title, *map(size_text, [*parts.values(), sum(parts.values())])]
        for title, parts in columns.items()
    ]
    width = max(map(len, names))
    widths = [max(map(len, column)) for column in cells]
    return "\n".join(
        "  ".join([name.ljust(width), *map(str.rjust, row, widths)])
        for name, row in zip(["", *names], zip(*cells, strict=True), strict=True)
    )


def size_text(size: Bytes) -> str:
    """Returns bytes in MiB, from 1 GiB on in GiB."""
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
