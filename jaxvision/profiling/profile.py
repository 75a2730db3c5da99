"""What a model takes: parameters, multiply-adds, latency, throughput, memory, module by module."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision.data.threads import num_cores
from jaxvision.errors import InputError
from jaxvision.interop.pretrained import published_top1
from jaxvision.models.registry import get_spec
from jaxvision.profiling.cost import (
    Trace,
    abstract_model,
    count_parameters,
    image_batch,
    total,
    trace_model,
)
from jaxvision.profiling.memory import size_text
from jaxvision.profiling.table import text_table

SECONDS = 1.0  # of timed calls for each batch size


@dataclasses.dataclass(frozen=True)
class Timing:
    """A forward pass in evaluation, compiled.

    Attributes:
      batch: Number of images of a call.
      milliseconds: Median time of a call in milliseconds.
      images_per_second: Throughput, `batch` / the median time.
      peak_bytes: Bytes of weights, images, activations and logits, as XLA plans it for one device.
    """

    batch: int
    milliseconds: float
    images_per_second: float
    peak_bytes: int


@dataclasses.dataclass(frozen=True)
class Node:
    """A module and all below it.

    Attributes:
      path: Path of the module from the model; "" for the model itself.
      kind: Name of the module's class; "" for a list of modules.
      parameters: Number of parameters.
      macs: Multiply-adds of one image.
      activations: Elements of all outputs of convolutions and matrix products, for one image.
      shape: Shape of the module's output for one image; of a list of modules, that of the last one.
    """

    path: str
    kind: str
    parameters: int
    macs: int
    activations: int
    shape: tuple[int, ...]


def model_options(name: str, height: int, width: int) -> dict[str, Any]:
    """Returns the options that build a model for an image size, where it is built for one."""
    config = get_spec(name).config
    has_size = "image_size" in {field.name for field in dataclasses.fields(config)}
    size = height if height == width else (height, width)
    return {"image_size": size} if has_size else {}


def module_tree(name: str, height: int, width: int, *, depth: int) -> list[Node]:
    """Returns the modules of a model in the order of its computation, counted for one image.

    Args:
      name: Name of the model.
      height: Height of the image in pixels.
      width: Width of the image in pixels.
      depth: Number of levels of modules below the model.

    Raises:
      InputError: if the model cannot be built for the size.
    """
    model = abstract_model(name, **model_options(name, height, width))
    try:
        trace = trace_model(model, image_batch(model, height, width))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{name} cannot take an image of {height} x {width} pixels: {reason}"
        ) from error
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    order = {"": 0}
    for place, path in enumerate(trace.shapes, start=1):  # calls return from the inside out
        for parent in _parents(path):
            order.setdefault(parent, place)
    shown = [
        path
        for path in sorted(modules, key=lambda path: (order.get(path, len(order)), path))
        if path == "" or path.count(".") < depth
    ]
    return [_node(path, modules[path], trace) for path in _nested(shown)]


def _parents(path: str) -> Iterator[str]:
    """Yields a path and all paths above it but the root."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _nested(paths: Sequence[str]) -> Iterator[str]:
    """Yields paths so that each is followed by all below it, in their given order."""

    def below(parent: str) -> Iterator[str]:
        yield parent
        for path in paths:
            if path and path.rpartition(".")[0] == parent:
                yield from below(path)

    return below("")


def _node(path: str, module: Any, trace: Trace) -> Node:
    def within(other: str) -> bool:
        return path in ("", other) or other.startswith(f"{path}.")

    macs, activations = total(work for work in trace.work if within(work.path))
    shapes = [shape for other, shape in trace.shapes.items() if within(other)]
    parameters = count_parameters(module)
    kind = "" if isinstance(module, nnx.List) else type(module).__name__
    shape = shapes[-1] if shapes else ()
    return Node(path, kind, parameters, macs, activations, shape)


def tree_table(nodes: Iterable[Node]) -> str:
    """Returns the tree as text."""
    header = ("module", "parameters", "MACs", "activations", "output")
    rows = []
    for node in nodes:
        name = f"{node.path.rpartition('.')[2]} {node.kind}".strip()
        indent = "  " * (node.path.count(".") + 1) if node.path else ""
        counts = [f"{count:,}" for count in (node.parameters, node.macs, node.activations)]
        output = " x ".join(map(str, node.shape[1:]))
        rows.append((f"{indent}{name}", *counts, output))
    return text_table(header, rows)


def time_model(name: str, height: int, width: int, batches: Iterable[int]) -> Iterator[Timing]:
    """Yields the times of a float32 model, for each batch size.

    Args:
      name: Name of the model.
      height: Height of the images in pixels.
      width: Width of the images in pixels.
      batches: Batch sizes, each timed by itself.

    Raises:
      InputError: if the model cannot be built for the size.
    """
    model: Any = abstract_model(name, **model_options(name, height, width))
    # Any weights do; to compile the random ones would take longer than all the rest.
    model = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), model)
    for batch in batches:
        images = jnp.zeros(image_batch(model, height, width, batch).shape)
        call: Any = jax.jit(lambda model, images: model(images)).lower(model, images).compile()
        memory = call.memory_analysis()
        seconds = _median_seconds(lambda call=call, images=images: call(model, images))
        peak = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        )
        yield Timing(batch, 1e3 * seconds, batch / seconds, peak)


def times_table(name: str, root: Node, timings: Iterable[Timing]) -> str:
    """Returns the benchmark table of one model.

    Args:
      name: Name of the model.
      root: First node of the model's tree.
      timings: Timings, one row each.
    """
    header = ("model", "parameters", "GMACs", "top-1", "batch", "ms", "images/s", "peak memory")
    top1 = published_top1(name)
    rows = (
        (
            name,
            f"{root.parameters:,}",
            f"{root.macs / 1e9:.3f}",
            "" if top1 is None else f"{top1:.1f}",
            str(timing.batch),
            f"{timing.milliseconds:.2f}",
            f"{timing.images_per_second:.1f}",
            size_text(timing.peak_bytes),
        )
        for timing in timings
    )
    return text_table(header, rows)


def device_name() -> str:
    """Returns what the times are measured on."""
    device = jax.local_devices()[0]
    cores = f", {num_cores()} cores" if device.platform == "cpu" else ""
    return f"{device.device_kind}{cores}, jax {jax.__version__}"


def _median_seconds(call: Callable[[], jax.Array]) -> float:
    """Returns the median time of a call; the first two are warm-up."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begin < SECONDS:
        start = time.perf_counter()
        call().block_until_ready()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])
