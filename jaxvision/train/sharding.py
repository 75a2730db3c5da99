"""Where arrays live: the mesh, sharding rules by parameter path, and batches onto devices."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxvision.errors import InputError

BATCH_AXES = ("data", "fsdp")  # the batch is split over every device
MIN_FSDP_SIZE = 2**16  # elements; splitting smaller arrays costs more than it saves


def make_mesh(*, data: int = -1, fsdp: int = 1, devices: Sequence | None = None) -> Mesh:
    """Returns a mesh of the axes `data` (batch only) and `fsdp` (batch and parameters).

    The axes are Auto: under Explicit ones, jax's default, embedding look-ups, window reshapes and
    BatchNorm of ordinary modules raise.

    Args:
      data: Number of devices along the batch; -1 takes all that `fsdp` leaves.
      fsdp: Number of devices that the parameters are split over.
      devices: Devices to use; None: all of all processes.

    Raises:
      InputError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if data == -1 and fsdp > 0:
        data = len(devices) // fsdp
    if data < 1 or fsdp < 1 or data * fsdp != len(devices):
        raise InputError(
            f"The mesh of data={data} x fsdp={fsdp} does not cover the {len(devices)} devices; "
            "choose --config.mesh.fsdp as a divisor of their number and leave data at -1."
        )
    return Mesh(
        np.asarray(devices).reshape(data, fsdp), BATCH_AXES, axis_types=(AxisType.Auto,) * 2
    )


def path_name(path: tuple) -> str:
    """Returns a key path of jax.tree_util as `blocks/attn/query/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def state_shardings(abstract_state: Any, *, mesh: Mesh, rules: tuple = ()) -> Any:
    """Returns a sharding for every array of a state.

    A rule is `(regex, spec)`; the first whose regex is found in the array's path decides, and
    `spec` names a mesh axis or None for each dimension. Optimizer moments carry their parameter's
    path, so they follow it. Where no rule matches, the largest dimension that the axis `fsdp`
    divides is split, for arrays of 65,536 elements or more.

    Raises:
      InputError: if a rule has another number of dimensions than an array it matches.
    """

    def spec(path, x) -> PartitionSpec:
        name = path_name(path)
        for pattern, axes in rules:
            if re.search(pattern, name) and x.ndim:
                if len(axes) != x.ndim:
                    raise InputError(
                        f"Sharding rule '{pattern}' has {len(axes)} dimensions, but it matches "
                        f"{name} of shape {x.shape}."
                    )
                if any(
                    axis and n % mesh.shape[axis] for axis, n in zip(axes, x.shape, strict=True)
                ):
                    raise InputError(
                        f"Sharding rule '{pattern}' splits {name} of shape {x.shape} over {axes}, "
                        f"which the mesh {dict(mesh.shape)} does not divide."
                    )
                return PartitionSpec(*axes)
        size = mesh.shape["fsdp"]
        dims = [d for d in range(x.ndim) if x.shape[d] % size == 0]
        if size == 1 or not dims or math.prod(x.shape) < MIN_FSDP_SIZE:
            return PartitionSpec()
        largest = max(dims, key=lambda d: x.shape[d])
        return PartitionSpec(*("fsdp" if d == largest else None for d in range(x.ndim)))

    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, spec(path, x)), abstract_state
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: the leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def put_batch(batch: dict, mesh: Mesh) -> dict:
    """Sends this process's part of a host batch to its devices, without waiting for it."""
    sharding = batch_sharding(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for key, value in batch.items()
    }
