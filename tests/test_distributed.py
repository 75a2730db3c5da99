"""Two processes on one machine, as two machines would run."""

import json
import signal

import pytest
from launching import CACHE, finish, free_port, start, start_processes, wait_for_step

# A ResNet, as the many small sums of BatchNorms are what processes get into disorder.
RUN = (
    "--config=tests/torture/averaging.py",
    CACHE,
    "--config.data.image_size=48",  # slow enough to be stopped in the middle
    "--config.total_steps=40",
    "--config.eval.every_steps=0",
    "--config.log.every_steps=1",
)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return {m["step"]: m[key] for m in lines for key in ("train/loss", "eval/loss") if key in m}


def test_two_processes_one_process_two_processes(tmp_path):
    """The number of processes, changed twice in a run, changes nothing in its curve."""
    codes, log = finish(start_processes(1, *RUN, f"--workdir={tmp_path}/one"))
    assert codes == [0], log
    for count, steps in ((2, 10), (1, 25), (2, 40)):
        parts = start_processes(count, *RUN, f"--workdir={tmp_path}/parts")
        if steps < 40:
            wait_for_step(parts, tmp_path / "parts", steps)
            parts[-1].send_signal(signal.SIGTERM)
        codes, log = finish(parts)
        assert codes == ([0] if steps == 40 else [143]) * count, log
    expected, found = losses(tmp_path / "one"), losses(tmp_path / "parts")
    assert found == pytest.approx(expected, rel=1e-5)


def test_processes_that_differ_end_before_the_first_step(tmp_path):
    environment = {
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
    }
    parts = [
        start(
            *RUN,
            f"--workdir={tmp_path}/run",
            f"--config.seed={seed}",
            environment=environment | {"JAX_PROCESS_ID": str(seed)},
        )
        for seed in (0, 1)
    ]
    codes, log = finish(parts)
    assert codes == [2, 2], log
    assert log.count("error: The processes differ: config.seed is 0 in process 0 and 1 in") == 2
    assert "Traceback" not in log and not list(tmp_path.iterdir())
