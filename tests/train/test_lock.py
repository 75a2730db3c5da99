"""Two runs in one folder: the second one is refused, whatever became of the first."""

import contextlib
import os
import socket
import subprocess
import sys

import finished_run
import pytest
from opening import train

from configs import smoke
from jaxvision.errors import InputError
from jaxvision.train import lock, loop
from jaxvision.train.lock import LOCK_FILE, lock_token, lock_workdir

# Holds the lock with a forked child that outlives it.
HOLDER = """
import os, sys, time
from jaxvision.train.lock import lock_workdir
with lock_workdir(sys.argv[1]):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def another_run(workdir):
    """Yields (process that holds the lock of a folder, id of its forked child)."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workdir)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            yield process, child
        finally:
            process.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, 9)


def test_the_second_run_in_a_folder_is_refused_until_the_first_is_dead(tmp_path):
    run, _ = finished_run.write(tmp_path)
    before = (tmp_path / "config.json").stat()
    with another_run(tmp_path) as (process, child):
        with pytest.raises(InputError) as error:
            loop.train(run, tmp_path)
        for part in (str(tmp_path), f"process id {process.pid} ", socket.gethostname()):
            assert part in str(error.value)
        assert (tmp_path / "config.json").stat() == before
        assert loop.restore_run(run, tmp_path)[1] == 3  # reads only, and need not wait
        process.kill()
        process.wait()
        os.kill(child, 0)  # lives on, and keeps nothing locked
        assert lock_token(tmp_path)  # is left behind
        with lock_workdir(tmp_path):
            assert str(os.getpid()) in lock_token(tmp_path)
    assert not (tmp_path / LOCK_FILE).exists()


def test_nothing_is_left_where_nothing_was_written(tmp_path):
    with pytest.raises(KeyError), lock_workdir(tmp_path / "a" / "b") as workdir:
        (workdir / "checkpoints").mkdir()
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_run_that_ended_while_it_was_opened_is_taken_anew(tmp_path, monkeypatch):
    lock_file = lock._lock_file
    removed = []

    def lock_and_remove(file, workdir):
        lock_file(file, workdir)
        if not removed:
            removed.append((tmp_path / LOCK_FILE).unlink())

    monkeypatch.setattr(lock, "_lock_file", lock_and_remove)
    with lock_workdir(tmp_path):
        assert removed and lock_token(tmp_path)


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://bucket/run", "file:///tmp/run"])
def test_a_url_is_no_folder(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is a URL, but files are written to"):
        train(smoke.get_config(), url, devices=2)
    assert not list(tmp_path.iterdir())


def test_who_holds_the_lock_may_read_it(tmp_path):
    """Opening the file again would free the lock as soon as it is closed."""
    with lock_workdir(tmp_path):
        assert lock_token(tmp_path)
        with pytest.raises(InputError, match="Another run writes into"), lock_workdir(tmp_path):
            pass
        code = f"from jaxvision.train.lock import *\nwith lock_workdir({str(tmp_path)!r}): pass"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "InputError: Another run writes into" in other.stderr
