"""Joins the processes of a run on several machines, or does nothing on one."""

import contextlib
import importlib.metadata
import logging
import os
import sys
from typing import Any

import jax

from jaxvision.command_line import add_xla_flag
from jaxvision.errors import InputError, RunError
from jaxvision.train.roll_call import call_roll

logger = logging.getLogger(__name__)

_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_LEAVE_SECONDS = 5  # that the others have to end for the same reason
_CLUSTER_SIZES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")


def initialize(mode: str, *, heartbeat_seconds: int = 100, timeout_seconds: int = 300) -> None:
    """Connects this process to the others; must run before anything touches a device.

    One machine with several GPUs needs one process and nothing of this.

    Args:
      mode: Mode: "off"; "on" (jax finds the cluster: Slurm, Open MPI, Cloud TPU, GKE); or "auto"
        (on where Slurm or Open MPI started several tasks, or where the environment variables
        JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say it by hand).
      heartbeat_seconds: Number of seconds after which a silent process counts as dead, and ends the
        run.
      timeout_seconds: Longest time to wait for the other processes, in seconds.

    Raises:
      InputError: if only some of the three variables are set, if they are wrong, or if a process
        does not come or is there twice.
    """
    given = [name for name in _BY_HAND if name in os.environ]
    if given and len(given) < len(_BY_HAND):
        raise InputError(
            f"{', '.join(_BY_HAND)} must be set together, only {', '.join(given)} is set."
        )
    tasks = max(_number(name) for name in _CLUSTER_SIZES)
    if mode == "off" or (mode == "auto" and not given and tasks == 1):
        return
    by_hand = {}
    if given:
        address, count, index = os.environ[_BY_HAND[0]], *map(_number, _BY_HAND[1:])
        call_roll(address, count=count, index=index, timeout_seconds=float(timeout_seconds))
        by_hand = {
            "coordinator_address": address,
            "num_processes": count,
            "process_id": index,
        }
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms == "cpu" or not (
        platforms or importlib.metadata.entry_points(group="jax_plugins")
    ):
        # By default XLA's CPU runtime starts independent sums in any order. Two processes that
        # differ in it, as they soon do with BatchNorms, send each other the wrong ones and die.
        add_xla_flag("--xla_cpu_enable_concurrency_optimized_scheduler=false")
    try:
        jax.distributed.initialize(
            **by_hand,
            heartbeat_timeout_seconds=heartbeat_seconds,
            initialization_timeout=timeout_seconds,
        )
    except (ValueError, TypeError) as error:  # jax finds no cluster
        raise InputError(
            f"--distributed={mode} finds no cluster to join ({str(error).rstrip('.')}): set "
            f"{', '.join(_BY_HAND)}, or --distributed=off for one process."
        ) from error
    logger.info("Process %d of %d.", jax.process_index(), jax.process_count())


def _number(name: str) -> int:
    text = os.environ.get(name, "1")
    if not text.isdecimal():
        raise InputError(f"The environment variable {name} must be a whole number, got {text!r}.")
    return int(text)


def leave_others(exit_code: int = 1) -> None:
    """Ends one process of several at once after an exception; does nothing where there is only one.

    At its normal exit it would wait for the others, which wait for it in a step: for as long as the
    heartbeat. Without it they fail at once. Where all of them end, each does so in its own way.
    """
    if not jax.distributed.is_initialized():
        return
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        coordination_client().wait_at_barrier("jaxvision/leave", 1000 * _LEAVE_SECONDS)
        return
    logger.error(
        "Process %d of %d ends. If it lost the connection to another one, look at the log of that "
        "one. The same command for all of them resumes from the newest checkpoint.",
        jax.process_index(),
        jax.process_count(),
        exc_info=not isinstance(sys.exception(), (InputError, RunError)),
    )
    os._exit(exit_code)


def coordination_client() -> Any:
    """Returns what connects the processes, for texts and barriers.

    There is no public way to exchange texts; orbax takes this one, too.
    """
    from jax._src import distributed

    return distributed.global_state.client
