"""Damaged checkpoints and full disks: said in words, and survived."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time

import launching
import pytest
from torture import runs

from configs import smoke
from jaxvision.train.writer import METRICS_FILE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="limits and mounts are those of Linux"),
]


def assert_in_words(run, *texts):
    """The log says it, and shows no stack."""
    for text in texts:
        assert text in run.log, run.log
    assert "Traceback" not in run.log and "Exception" not in run.log, run.log


def zeros(path):
    path.write_bytes(b"\0" * path.stat().st_size)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [zeros, truncate])
def test_damaged_newest_checkpoint(tmp_path, whole, damage):
    stopped = runs.Run(smoke, tmp_path / "run")
    stopped.wait_for_step(runs.new_rng(damage.__name__).randint(7, 19))
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.end() == 143, stopped.log
    folders = (tmp_path / "run" / "checkpoints").iterdir()
    *_, before, newest = sorted(int(folder.name) for folder in folders)
    for path in (tmp_path / "run" / "checkpoints" / str(newest) / "state").rglob("d/*"):
        damage(path)
    resumed = runs.finish(smoke, tmp_path / "run")
    said = f"The checkpoint of step {newest} cannot be read"
    assert_in_words(resumed, said, f"Resumed from step {before}.")
    case = f"damaged ({damage.__name__}): step {newest}, resumed from {before}"
    runs.assert_same_end(case, smoke, tmp_path / "run", whole)


def test_no_file_may_be_large_enough(tmp_path, whole):
    """As where a disk takes the lines of the log, but no checkpoint."""
    full = runs.Run(smoke, tmp_path / "run")
    full.wait_for_step(runs.new_rng("limit").randint(4, 19))
    limit = 2**15
    resource.prlimit(full.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    assert full.end() == 1, full.log
    assert_in_words(full, "could not be saved", "error: The last checkpoint could not be saved")
    assert launching.logged_step(tmp_path / "run") == runs.STEPS
    failures = full.log.count("The checkpoint of step")
    assert failures > 3
    runs.finish(smoke, tmp_path / "run")
    case = f"file size limit: {failures} failed saves"
    runs.assert_same_end(case, smoke, tmp_path / "run", whole)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_until(run, disk, said=None):
    """Takes all space of a disk until the run has ended, or has said something of it."""
    while run.process.poll() is None and (said is None or said not in run.log):
        with (disk / "filler").open("ab", buffering=0) as filler:
            for size in (2**16, 2**10, 1):
                with contextlib.suppress(OSError):
                    while True:
                        filler.write(b"x" * size)
        time.sleep(0.02)  # and then that of a checkpoint which was deleted


def test_full_disk(small_disk, whole):
    logs = {"log_folder": small_disk.parent}
    full = runs.Run(smoke, small_disk / "run", **logs)
    full.wait_for_step(runs.new_rng("full").randint(4, 19))
    fill_until(full, small_disk)
    assert full.end() == 1, full.log
    assert_in_words(full, "could not be saved", f"{METRICS_FILE} cannot be written", "error: The")
    again = runs.Run(smoke, small_disk / "run", **logs)
    fill_until(again, small_disk)
    assert again.end() in (1, 2)
    assert_in_words(again, "error: The", "space")
    (small_disk / "filler").unlink()
    runs.finish(smoke, small_disk / "run", **logs)
    runs.assert_same_end("full disk", smoke, small_disk / "run", whole)


def test_disk_that_is_full_for_a_while(small_disk, whole):
    """Nothing is lost, not even a line of the metrics, and the same process goes on."""
    full = runs.Run(smoke, small_disk / "run", log_folder=small_disk.parent)
    full.wait_for_step(runs.new_rng("while").randint(4, 19))
    fill_until(full, small_disk, "could not be saved")
    (small_disk / "filler").unlink()
    assert full.end() == 0, full.log
    assert_in_words(full, "could not be saved")
    runs.assert_same_end("disk full for a while", smoke, small_disk / "run", whole)
