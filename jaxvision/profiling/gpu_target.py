"""GPUs that programs can be compiled for on a machine without one."""

import contextlib
import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies

from jaxvision.errors import InputError, check_choice, reason
from jaxvision.target_platform import tracing_for

_FOLDER = pathlib.Path(__file__).parent / "gpu_targets"
# XLA's numbers of dtypes, and how it writes them.
_DTYPES = {"10": "f16", "16": "bf16", "11": "f32"}
# Without a device nothing can be tuned, and Triton's products would be slow ones.
COMPILER_OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What one GPU can do, by its specification.

    Attributes:
      name: Name of its file, such as "h100".
      title: Name that the device gives itself.
      memory: Bytes of memory.
      bandwidth: Bytes of memory per second that can be read or written.
      product_rates: Floating-point operations per second of matrix products, by the dtype of the
        factors; float32 ones are computed in TF32.
    """

    name: str
    title: str
    memory: int
    bandwidth: float
    product_rates: dict[str, float]

    @property
    def usable_memory(self) -> float:
        """Bytes that programs may use: the share that JAX takes by default."""
        return 0.75 * self.memory


def gpu_names() -> list[str]:
    """Returns the names of the GPUs, each a file of `gpu_targets/`."""
    return sorted(path.stem for path in _FOLDER.glob("*.txtpb"))


def read_gpu(name: str) -> Gpu:
    """Returns what a GPU can do.

    Args:
      name: Name of the GPU, such as "h100".

    Raises:
      InputError: if there is no such GPU.
    """
    text = _read(name)

    def field(key: str) -> str:
        found = re.search(rf'\b{key}: "?([^"\n]+)', text)
        assert found, f"{name}.txtpb has no {key}"
        return found[1]

    matrices = text.partition("matrix_unit_description {")[2].partition("\n  }")[0]
    rates = re.findall(
        r"key: (\d+) value { clock_rate_ghz: ([\d.]+) units_per_core: (\d+) ops_per_clock: (\d+)",
        matrices,
    )
    return Gpu(
        name=name,
        title=field("device_description_str"),
        memory=int(field("device_memory_size")),
        bandwidth=float(field("memory_bandwidth")),
        product_rates={
            _DTYPES[dtype]: 2e9 * float(clock) * int(units) * int(ops) * int(field("core_count"))
            for dtype, clock, units, ops in rates
            if dtype in _DTYPES
        },
    )


@functools.cache
def gpu_devices(name: str) -> tuple[Any, ...]:
    """Returns the devices of a machine with one GPU, to compile for; no array can be on them.

    Args:
      name: Name of the GPU, such as "h100".

    Raises:
      InputError: if there is no such GPU, or no compiler for it here.
    """
    text = _read(name)
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=text, topology="1x1x1"
        )
        jax.eval_shape(_attention, jax.ShapeDtypeStruct((1, 8, 1, 8), "bfloat16"))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"What compiles for an {name} is not here ({reason(error).rstrip('.')}): type pip "
            "install 'jax[cuda13]' and, on a machine without a GPU, export JAX_PLATFORMS=cpu."
        ) from error
    return tuple(topology.devices)


def _attention(tokens: jax.Array) -> jax.Array:
    """Returns cuDNN's attention, for which JAX asks at once which version of cuDNN is here."""
    return jax.nn.dot_product_attention(tokens, tokens, tokens, implementation="cudnn")


@contextlib.contextmanager
def compiled_for(name: str) -> Iterator[tuple[Any, ...]]:
    """Yields the devices of `gpu_devices`; what is built and traced inside is what they would run.

    Args:
      name: Name of the GPU, such as "h100".

    Raises:
      InputError: if there is no such GPU, or no compiler for it here.
    """
    devices = gpu_devices(name)
    with tracing_for("gpu"):
        yield devices


def _read(name: str) -> str:
    check_choice("The GPU", name, tuple(gpu_names()))
    return (_FOLDER / f"{name}.txtpb").read_text()
