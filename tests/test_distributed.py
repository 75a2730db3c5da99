"""Two processes on one machine, as two machines would run."""

import json
import signal

import pytest
from launching import CACHE, finish, start_processes, wait_for_step

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
