"""Joins the processes of a run on several machines, or does nothing on one."""

import importlib.metadata
import logging
import os

import jax

from jaxvision.command_line import add_xla_flag
from jaxvision.errors import InputError

logger = logging.getLogger(__name__)

_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_CLUSTER_SIZES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")


def initialize(mode: str, *, heartbeat_seconds: int = 100) -> None:
    """Connects this process to the others; must run before anything touches a device.

    One machine with several GPUs needs one process and nothing of this.

    Args:
      mode: Mode: "off"; "on" (jax finds the cluster: Slurm, Open MPI, Cloud TPU, GKE); or "auto"
        (on where Slurm or Open MPI started several tasks, or where the environment variables
        JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say it by hand).
      heartbeat_seconds: Number of seconds after which a silent process counts as dead, and ends the
        run.

    Raises:
      InputError: if only some of the three variables are set.
    """
    given = [name for name in _BY_HAND if name in os.environ]
    if given and len(given) < len(_BY_HAND):
        raise InputError(
            f"{', '.join(_BY_HAND)} must be set together, only {', '.join(given)} is set."
        )
    tasks = max(int(os.environ.get(name, "1")) for name in _CLUSTER_SIZES)
    if mode == "off" or (mode == "auto" and not given and tasks == 1):
        return
    by_hand = {}
    if given:
        address, number, index = (os.environ[name] for name in _BY_HAND)
        by_hand = {
            "coordinator_address": address,
            "num_processes": int(number),
            "process_id": int(index),
        }
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms == "cpu" or not (
        platforms or importlib.metadata.entry_points(group="jax_plugins")
    ):
        # By default XLA's CPU runtime starts independent sums in any order. Two processes that
        # differ in it, as they soon do with BatchNorms, send each other the wrong ones and die.
        add_xla_flag("--xla_cpu_enable_concurrency_optimized_scheduler=false")
    jax.distributed.initialize(**by_hand, heartbeat_timeout_seconds=heartbeat_seconds)
    logger.info("Process %d of %d.", jax.process_index(), jax.process_count())


def leave_others() -> None:
    """Ends one process of several at once after an exception; does nothing where there is only one.

    At its normal exit it would wait for the others, which wait for it in a step: for as long as the
    heartbeat. Without it they fail at once.
    """
    if not jax.distributed.is_initialized():
        return
    logger.error(
        "Process %d of %d ends. If it lost the connection to another one, look at the log of that "
        "one. The same command for all of them resumes from the newest checkpoint.",
        jax.process_index(),
        jax.process_count(),
        exc_info=True,
    )
    os._exit(1)
