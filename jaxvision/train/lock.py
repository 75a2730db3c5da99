"""The lock of a run's folder: two runs that write into one would lose each other's files."""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import socket
import time
import uuid
from collections.abc import Iterator

from jaxvision.errors import InputError
from jaxvision.files import cannot_write, output_path

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"

# What this process holds: opening such a file again would free its lock as soon as it is closed.
_held: dict[pathlib.Path, str] = {}


@contextlib.contextmanager
def lock_workdir(workdir: str | pathlib.Path, *, holds: bool = True) -> Iterator[pathlib.Path]:
    """Makes the folder of a run and keeps other runs out of it; readers do not ask.

    Inside, the file `.lock` names host and process, and a token that is new each time. A lock that
    a killed run has left behind is none: the system frees it with the process, also over NFS. It
    is fcntl's, not flock's, which a forked child would keep. Folders that are still empty at the
    end are removed again.

    Args:
      workdir: Folder of the run.
      holds: Whether this process holds the lock; of several of one run only the first does.

    Raises:
      InputError: if another run holds it, or the folder cannot be written.
    """
    workdir = output_path(workdir)
    if holds and workdir in _held:
        raise _is_held(workdir)
    missing = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    try:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            file = _lock(workdir) if holds else None
        except OSError as error:
            raise cannot_write(workdir, error) from error
        try:
            yield workdir
        finally:
            if file is not None:
                del _held[workdir]
                if _is_file(workdir / LOCK_FILE, file):
                    (workdir / LOCK_FILE).unlink()
                os.close(file)
    finally:
        with contextlib.suppress(OSError):  # of a folder that holds something
            if missing and [path.name for path in workdir.iterdir()] == ["checkpoints"]:
                (workdir / "checkpoints").rmdir()
            for folder in missing:
                folder.rmdir()


def lock_token(workdir: pathlib.Path) -> str:
    """Returns what stands in the lock of a folder: "HOST PROCESS TOKEN"; "" without one."""
    if workdir.absolute() in _held:
        return _held[workdir.absolute()]
    try:
        return (workdir / LOCK_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _lock(workdir: pathlib.Path) -> int:
    """Returns the locked file, whose content is this process."""
    path = workdir / LOCK_FILE
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock_file(file, workdir)
            if _is_file(path, file):
                os.ftruncate(file, 0)
                token = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4()}"
                os.write(file, f"{token}\n".encode())
                _held[workdir] = token
                return file
        except OSError:  # a full disk
            path.unlink(missing_ok=True)
            os.close(file)
            raise
        except InputError:
            os.close(file)
            raise
        os.close(file)  # of a run that has ended and removed it meanwhile


def _lock_file(file: int, workdir: pathlib.Path) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise _is_held(workdir) from error
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        logger.warning(
            "The disk of %s knows no locks: see to it that no other run writes there.", workdir
        )


def _is_file(path: pathlib.Path, file: int) -> bool:
    """Returns whether an open file is still the one of that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except OSError:
        return False


def _is_held(workdir: pathlib.Path) -> InputError:
    deadline = time.monotonic() + 2
    while not lock_token(workdir) and time.monotonic() < deadline:
        time.sleep(0.05)  # it is about to be written
    host, process, *_ = (lock_token(workdir) or "unknown unknown").split()
    return InputError(
        f"Another run writes into {workdir} (process id {process} on the host {host}): wait for "
        "its end or stop it, or give another --workdir."
    )
