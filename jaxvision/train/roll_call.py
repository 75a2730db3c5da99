"""Who is there: the processes of a run meet before JAX connects them.

JAX ends a process by SIGABRT where another one does not come, has its number or holds its port.
Here they meet at the same address first, so that each of these is a sentence.
"""

import contextlib
import json
import logging
import os
import socket
import time
from typing import Any

from jaxvision.errors import InputError

logger = logging.getLogger(__name__)

SAY_SECONDS = 10  # between two lines about who is waited for
_POLL_SECONDS = 0.5
_LINE_BYTES = 100_000  # anything may connect
_HOW = "start process i with JAX_PROCESS_ID=i, each number from 0 to JAX_NUM_PROCESSES - 1 once"


def call_roll(address: str, *, count: int, index: int, timeout_seconds: float) -> None:
    """Returns once all processes of a run are there.

    Args:
      address: Address of the first process, HOST:PORT, where JAX will listen, too.
      count: Number of processes.
      index: Number of this process.
      timeout_seconds: Longest time to wait.

    Raises:
      InputError: in every process, if one is missing or there twice; in the first one, if its port
        is in use.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise InputError(
            f"JAX_COORDINATOR_ADDRESS must be HOST:PORT of the first process, got {address!r}."
        )
    if not 0 <= index < count:
        raise InputError(
            f"JAX_PROCESS_ID must be in 0..{count - 1}, as JAX_NUM_PROCESSES is {count}, "
            f"got {index}."
        )
    waiting = _Waiting(timeout_seconds)
    if index > 0:
        _answer(host.strip("[]"), int(port), count, index, waiting)
    elif count > 1:
        with _listen(int(port), count) as server:
            _collect(server, count, waiting)


def _listen(port: int, count: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        answer = {}
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("localhost", port), timeout=_POLL_SECONDS) as connection,
        ):  # so that another process 0 hears of this one, and ends
            connection.sendall(_hello(0, count))
            answer = _receive(connection, seconds=2.0)
        reason = os.strerror(error.errno or 0)
        raise InputError(
            answer.get("problem")
            or f"Port {port} of JAX_COORDINATOR_ADDRESS cannot be opened ({reason}): another "
            "program has it; end that one, or give all processes a free port."
        ) from error


class _Waiting:
    """Says now and then who is waited for, until the time is over."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._start = time.monotonic()
        self._said = self._start

    def goes_on(self, whom: str, *, extra: float = 0.0) -> bool:
        """Returns whether there is time left, and some extra; says `whom` every 10 seconds."""
        now = time.monotonic()
        if now > self._said + SAY_SECONDS:
            self._said = now
            logger.info("Waiting for %s: %.0f s of %.0f s.", whom, now - self._start, self.seconds)
        return now < self._start + self.seconds + extra


def _collect(server: socket.socket, count: int, waiting: _Waiting) -> None:
    """Waits for the others as the first process, and tells them the result."""
    server.settimeout(_POLL_SECONDS)
    present: dict[int, tuple[str, socket.socket]] = {}
    problem = ""
    with contextlib.ExitStack() as connections:
        while len(present) < count - 1 and not problem:
            missing = [i for i in range(1, count) if i not in present]
            if not waiting.goes_on(f"process {_listed(missing)} of {count}"):
                problem = (
                    f"Of {count} processes, {_listed(missing)} did not come within "
                    f"{waiting.seconds:.0f} s: {_HOW}."
                )
                break
            with contextlib.suppress(OSError):
                connection = connections.enter_context(server.accept()[0])
                problem = _enter(connection, present, count)
            for index, (_, connection) in list(present.items()):
                if _is_closed(connection):  # it ended, and may be started again
                    del present[index]
        for _, connection in present.values():
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps({"problem": problem}).encode() + b"\n")
    if problem:
        raise InputError(problem)


def _enter(
    connection: socket.socket, present: dict[int, tuple[str, socket.socket]], count: int
) -> str:
    """Adds a process to those that are there; returns what is wrong with it, or ""."""
    hello = _receive(connection, seconds=5.0)
    try:
        index, of, who = int(hello["process"]), int(hello["of"]), str(hello["who"])[:200]
    except (KeyError, TypeError, ValueError):
        return ""  # not one of us
    first = f"process 0, {_myself()},"
    problem = ""
    if of != count:
        problem = f"JAX_NUM_PROCESSES is {of} of process {index}, {who}, but {count} of {first}"
        problem = f"{problem.rstrip(',')}: give all the same."
    elif index == 0 or index in present:
        other = _myself() if index == 0 else present[index][0]
        problem = f"JAX_PROCESS_ID is {index} of two processes, {other} and {who}: {_HOW}."
    if problem:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps({"problem": problem}).encode() + b"\n")
    else:
        present[index] = who, connection
    return problem


def _answer(host: str, port: int, count: int, index: int, waiting: _Waiting) -> None:
    """Reports to the first process, and waits for what it says."""
    hello = _hello(index, count)
    whom = f"process 0 of {count} at {host}:{port}"
    while waiting.goes_on(whom):
        try:
            with socket.create_connection((host, port), timeout=_POLL_SECONDS) as connection:
                if connection.getsockname() == connection.getpeername():
                    raise OSError("connected to itself, as may happen where nobody listens")
                connection.sendall(hello)
                answer: dict = {}
                whom = f"the other processes of {count}"
                # The first one ends the waiting for all, and may have begun later.
                extra = waiting.seconds
                while not answer and waiting.goes_on(whom, extra=extra):
                    if _is_closed(connection):
                        break
                    answer = _receive(connection, seconds=_POLL_SECONDS)
        except socket.gaierror as error:
            raise InputError(
                f"The host of JAX_COORDINATOR_ADDRESS={host}:{port} is not known "
                f"({error.strerror}): give the address of process 0."
            ) from error
        except OSError:  # it is not there yet
            time.sleep(_POLL_SECONDS)
            continue
        if answer.get("problem"):
            raise InputError(str(answer["problem"]))
        if "problem" in answer:
            return
        time.sleep(_POLL_SECONDS)
    raise InputError(
        f"Process {index} of {count} waited {waiting.seconds:.0f} s for {whom}: {_HOW}, and let "
        "JAX_COORDINATOR_ADDRESS be an address of process 0 that all can reach."
    )


def _receive(connection: socket.socket, *, seconds: float) -> dict[str, Any]:
    """Returns the JSON object of the next line; {} where none comes."""
    connection.settimeout(seconds)
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < _LINE_BYTES:
            part = connection.recv(4096)
            if not part:
                return {}
            line += part
        found = json.loads(line)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _hello(index: int, count: int) -> bytes:
    return json.dumps({"process": index, "of": count, "who": _myself()}).encode() + b"\n"


def _myself() -> str:
    return f"process id {os.getpid()} on the host {socket.gethostname()}"


def _listed(numbers: list[int]) -> str:
    few = ", ".join(map(str, numbers[:5]))
    return few if len(numbers) <= 5 else f"{few} and {len(numbers) - 5} more"
