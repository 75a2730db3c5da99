"""Fair timing of two or more systems in one process: alternating blocks, each warmed anew.

After idling, the first call on a shared machine takes several times as long, and a foreign process
slows the systems by different factors. So the systems take turns, every block starts with untimed
calls, and a block during which other processes used the CPU is thrown away.
"""

import contextlib
import importlib.metadata
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable

FOREIGN_CORES = 0.12  # a block is thrown away if others kept more of a core busy
ATTEMPTS = 8  # of a block, before the figures are taken with a warning


class Timing:
    """Seconds per call of one system, one value for each clean block."""

    def __init__(self):
        self.seconds: list[float] = []
        self.disturbed = 0

    @property
    def median(self) -> float:
        """Median seconds per call."""
        return statistics.median(self.seconds)

    def rate(self, items: int) -> str:
        """Items per second: median [lowest-highest]."""
        low, high = items / max(self.seconds), items / min(self.seconds)
        note = f", {self.disturbed} disturbed" if self.disturbed else ""
        return f"{items / self.median:.4g} [{low:.4g}-{high:.4g}{note}]"


def compare(
    systems: dict[str, Callable[[], object]],
    *,
    blocks: int = 5,
    seconds: float = 0.5,
    warm: int = 2,
) -> dict[str, Timing]:
    """Times calls that return when their work is done; returns {name: Timing}.

    Args:
      systems: the calls.
      blocks: timed blocks of each.
      seconds: least length of a block; a block is at least one call.
      warm: untimed calls before each block.
    """
    timings = {name: Timing() for name in systems}
    for call in systems.values():  # compile
        call()
    for _ in range(blocks):
        for name, call in systems.items():
            per_call, clean = 0.0, False
            for _ in range(ATTEMPTS):
                per_call, clean = _block(call, seconds=seconds, warm=warm)
                if clean:
                    break
            timings[name].seconds.append(per_call)
            timings[name].disturbed += not clean
    return timings


def _block(call: Callable[[], object], *, seconds: float, warm: int) -> tuple[float, bool]:
    for _ in range(warm):
        call()
    busy, own = _busy_seconds(), _own_seconds()
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < seconds:
        call()
        count += 1
    length = time.perf_counter() - start
    foreign = (_busy_seconds() - busy) - (_own_seconds() - own)
    # /proc/stat counts in hundredths of a second.
    return length / count, foreign / length < FOREIGN_CORES + 0.02 / length


def _busy_seconds() -> float:
    """CPU seconds of all processes and of the machine's other guests; 0 where nobody tells."""
    with contextlib.suppress(OSError), open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, steal, *_ = map(int, file.readline().split()[1:])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _own_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def machine() -> str:
    """One line: processor, cores, versions, and how glibc allocates if it was told."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        model = next((x.split(":")[1].strip() for x in file if x.startswith("model name")), model)
    packages = ("jax", "flax", "optax", "torch", "torchvision", "timm")
    versions = []
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    tunables = [os.environ[name] for name in ("GLIBC_TUNABLES",) if name in os.environ]
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores; Python {platform.python_version()}, "
        + ", ".join(versions + tunables)
    )
