"""The socket, and uvicorn from its first request to its last."""

import errno
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from jaxvision.errors import InputError, reason

GRACE_SECONDS = 30  # for the requests in flight after a signal


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound, and refuses connections until it is listened to.

    Args:
      host: Name or address of this machine.
      port: Number of the port; 0: a free one.

    Raises:
      InputError: if the port is in use, or the address is not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InputError(
            f"--host={host} is no address of this machine: {reason(error)}."
        ) from error
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        return bound
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"Port {port} of {host} is in use: stop what listens there, or give --port=0 for a "
                "free one."
            ) from error
        raise InputError(
            f"--host={host} --port={port} cannot be opened: {reason(error)}."
        ) from error


def address_of(bound: socket.socket) -> str:
    """Returns the address of a socket as a browser takes it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn, with exit codes as those of a shell, and not stopped by SIGTERM itself.

    Args:
      app: ASGI app.
      ready: Function that is called when the server listens.

    Attributes:
      signum: Number of the signal that ended it; None: it was told to end, by `should_exit`.
    """

    def __init__(self, app: Any, ready: Callable[[], None]):
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        super().__init__(config)
        self.signum: int | None = None
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says so."""
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Notes a signal: requests in flight are answered; a second SIGINT ends at once."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.signum, self.should_exit = self.signum or sig, True
