"""Starts `launch.py` as a user types it, for the tests that look at a run from outside."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import jax

ROOT = pathlib.Path(__file__).parent.parent
# Compiled programs are shared by all launches, and with the next run of the tests.
CACHE = f"--config.compilation_cache={jax.config.jax_compilation_cache_dir}"


def start(*arguments, environment=None, **options):
    """Starts one process with one device; `options` are those of Popen."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "launch.py", *map(str, arguments)],
        cwd=ROOT,
        env=inherited | {"JAX_PLATFORMS": "cpu"} | (environment or {}),
        text=True,
        **(pipes | options),
    )


def start_processes(count, *arguments, **options):
    """Starts `count` processes of one run, each with as many devices as make two in all."""
    environment = {"JAX_NUM_CPU_DEVICES": str(2 // count)}
    if count > 1:
        environment |= {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
            "JAX_NUM_PROCESSES": str(count),
        }
    return [
        start(*arguments, environment=environment | {"JAX_PROCESS_ID": str(i)}, **options)
        if count > 1
        else start(*arguments, environment=environment, **options)
        for i in range(count)
    ]


def finish(processes, timeout=120):
    """Waits for the processes; returns their exit codes and all that they printed."""
    try:
        logs = ["".join(filter(None, p.communicate(timeout=timeout))) for p in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "\n".join(logs)


def launch(*arguments, timeout=240):
    """Runs one process to its end."""
    with start(*arguments) as process:
        out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def logged_step(workdir):
    """Returns the newest step of metrics.jsonl, 0 before the first; the last line may be torn."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def wait_for_step(processes, workdir, step, timeout=120):
    """Waits until a run has logged a step, or has ended."""
    deadline = time.monotonic() + timeout
    while logged_step(workdir) < step and all(p.poll() is None for p in processes):
        assert time.monotonic() < deadline, f"no step {step} in {timeout} s"
        time.sleep(0.005)


def options(**values):
    """Returns the flags for options of the config; a name has `__` for every dot."""
    return [f"--config.{name.replace('__', '.')}={value}" for name, value in values.items()]
