"""What no request gets past: foreign hosts and pages, too much of anything."""

import asyncio
import contextlib
import dataclasses
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from jaxvision.errors import shorten

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

BODY_SECONDS = 60.0  # to send a request, from its first byte on
DRAIN_SECONDS = 5.0  # in which a body that is refused is read and forgotten
MAX_BODIES = 8  # of the greatest size, that are held in memory at once
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# Scripts and styles come from this server alone, and no page frames ours.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much the server takes.

    Attributes:
      max_bytes: Largest size of a request.
      max_pixels: Largest number of pixels of an image.
      max_images: Largest number of images of a request.
      queue: Largest number of requests at once; further ones are refused.
    """

    max_bytes: int = 32 << 20
    max_pixels: int = 50_000_000
    max_images: int = 64
    queue: int = 64


class Guard:
    """Wraps an ASGI app: checks host and origin, bounds bodies, requests and time, adds headers.

    A name that an attacker points at 127.0.0.1 (DNS rebinding) is another host, and a page of
    another site has another origin, so neither can use a server that only this machine reaches.

    Args:
      app: App to wrap.
      limits: How much it takes.
      hosts: Names by which browsers may call it; `[...]` around IPv6 addresses.
      any_address: Whether it may be called by any IP address, which nobody can rebind.
    """

    def __init__(
        self, app: Any, limits: Limits, *, hosts: tuple[str, ...], any_address: bool = False
    ):
        self._app, self._limits = app, limits
        self._hosts, self._any_address = frozenset(map(str.lower, hosts)), any_address
        self.requests, self.bytes, self.answered = 0, 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        send = _with_headers(send)
        status, sentence, size = 403, self._foreign(headers), 0
        if not sentence and scope["method"] not in ("GET", "HEAD"):
            limits = self._limits
            # A body in chunks does not say its size.
            size = int(headers.get("content-length", limits.max_bytes))
            if size > limits.max_bytes:
                status, sentence = 413, too_large(limits)
            elif self.requests >= limits.queue or self.bytes + size > MAX_BODIES * limits.max_bytes:
                status, sentence = 503, "The server has as many requests as it takes: try again."
        if sentence:
            if "expect" not in headers:  # who waits for leave to send has sent nothing
                await _drain(receive)
            retry = {"retry-after": "1"} if status == 503 else None
            await JSONResponse({"error": sentence}, status, retry)(scope, receive, send)
            return
        self.requests, self.bytes = self.requests + (size > 0), self.bytes + size
        try:
            await self._app(scope, self._bounded(receive), send)
            self.answered += 1
        finally:
            self.requests, self.bytes = self.requests - (size > 0), self.bytes - size

    def _foreign(self, headers: Headers) -> str:
        """Returns why a request may come from a page of somebody else; "" if it does not."""
        host = headers.get("host", "")
        name = _name(host)
        if name not in self._hosts and not (self._any_address and _is_address(name)):
            return (
                f"This server does not answer to the host '{shorten(host, 80)}': call it by the "
                "address that it printed, or start it with --allow-host=NAME."
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return f"Pages of '{shorten(origin, 80)}' may not use this server."
        return ""

    def _bounded(self, receive: Receive) -> Receive:
        """Returns `receive`, which raises where a body is too large or too slow."""
        received, ends, done = 0, time.monotonic() + BODY_SECONDS, False

        async def bounded() -> Any:
            nonlocal received, done
            if done:
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(
                    408, f"The request was not sent within {BODY_SECONDS:.0f} seconds."
                ) from error
            received += len(message.get("body", b""))
            done = not message.get("more_body", False)
            if received > self._limits.max_bytes:
                await _drain(receive, done)
                raise HTTPException(413, too_large(self._limits))
            return message

        return bounded


def allowed_hosts(address: str, host: str) -> tuple[tuple[str, ...], bool]:
    """Returns the names that a server is called by, and whether it may be any IP address.

    Args:
      address: Address that it listens at.
      host: Name or address that was asked for.
    """
    names = (*LOOPBACK, host.lower(), f"[{host.lower()}]")
    if ipaddress.ip_address(address).is_loopback:
        return names, False
    return (*names, socket.gethostname().lower()), True


def too_large(limits: Limits) -> str:
    """Returns the sentence about a request that is too large."""
    return f"The request is larger than {limits.max_bytes >> 20} MB: send smaller or fewer images."


async def _drain(receive: Receive, done: bool = False) -> None:
    """Reads the rest of a body and forgets it: a client that still sends would miss the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while not done:
                done = not (await receive()).get("more_body", False)


def _with_headers(send: Send) -> Send:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return sending


def _name(host: str) -> str:
    """Returns the name of a Host header, without the port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
