"""Two processes on one machine, as two machines would run."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(workdir, count, *options):
    """Starts `count` processes of one run, each with as many devices as make two in all."""
    address = f"127.0.0.1:{free_port()}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(2 // count)}
    processes = []
    for index in range(count):
        if count > 1:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(index),
            }
        processes.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "launch.py",
                    "--config=configs/smoke.py",
                    f"--workdir={workdir}",
                    "--config.data.image_size=160",  # slow enough to be stopped in the middle
                    "--config.total_steps=60",
                    "--config.eval.every_steps=0",
                    "--config.log.every_steps=1",
                    *options,
                ],
                cwd=ROOT,
                env=dict(environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def finish(processes, timeout=120):
    logs = []
    try:
        logs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "\n".join(logs)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return {m["step"]: m[key] for m in lines for key in ("train/loss", "eval/loss") if key in m}


def test_two_processes_one_process_two_processes(tmp_path):
    """The number of processes, changed twice in a run, changes nothing in its curve."""
    cache = f"--config.compilation_cache={jax.config.jax_compilation_cache_dir}"
    codes, log = finish(start(tmp_path / "one", 1, cache))
    assert codes == [0], log
    for count, steps in ((2, 10), (1, 35), (2, 60)):
        parts = start(tmp_path / "parts", count, cache)
        if steps < 60:
            stop_after(parts, tmp_path / "parts", steps)
        codes, log = finish(parts)
        assert codes == ([0] if steps == 60 else [143]) * count, log
    expected, found = losses(tmp_path / "one"), losses(tmp_path / "parts")
    assert found == pytest.approx(expected, rel=1e-5)


def stop_after(processes, workdir, step):
    """Signals the last process only, once the run has logged the step."""
    deadline = time.monotonic() + 90
    metrics = workdir / "metrics.jsonl"
    while time.monotonic() < deadline and all(p.poll() is None for p in processes):
        if metrics.exists() and f'"step": {step}' in metrics.read_text():
            processes[-1].send_signal(signal.SIGTERM)
            return
        time.sleep(0.01)
