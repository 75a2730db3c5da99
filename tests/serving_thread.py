"""A real server of `jaxvision serve` on a loopback port, in a thread of the tests' process."""

import contextlib
import dataclasses
import http.client
import json
import secrets
import threading
import urllib.parse
from typing import Any

from jaxvision.serving.app import make_app
from jaxvision.serving.batcher import Batcher, batch_sizes
from jaxvision.serving.guard import Guard, Limits, allowed_hosts
from jaxvision.serving.server import Server, address_of, bind


@dataclasses.dataclass
class Served:
    """A running server: where it is, and what is behind it."""

    address: str
    guard: Guard
    batcher: Batcher

    def ask(self, method="POST", path="/predict", body=None, headers=None) -> tuple[int, Any]:
        """Returns the status and the JSON of an answer."""
        status, _, data = self.fetch(method, path, body, headers)
        return status, json.loads(data)

    def fetch(self, method, path, body=None, headers=None):
        """Returns status, headers and bytes of an answer."""
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.address).netloc)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def predict(self, *images, **fields) -> tuple[int, Any]:
        """Sends images as `curl -F` does: (name, bytes)."""
        return self.ask(**form(*images, **fields))


def form(*images, **fields) -> dict[str, Any]:
    """Returns body and headers of multipart/form-data."""
    boundary = secrets.token_hex(8)
    parts = [
        (f'name="images"; filename="{name}"\r\nContent-Type: image/png', data)
        for name, data in images
    ]
    parts += [(f'name="{name}"', str(value).encode()) for name, value in fields.items()]
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    kind = f"multipart/form-data; boundary={boundary}"
    return {"body": body + f"--{boundary}--\r\n".encode(), "headers": {"Content-Type": kind}}


@contextlib.contextmanager
def served(engine, *, batch=8, samples=(), **limits):
    """Serves an engine while it is entered."""
    bound = bind("127.0.0.1", 0)
    batcher = Batcher(engine, batch_sizes(batch))
    batcher.start()
    found = Limits(**limits)
    hosts, any_address = allowed_hosts("127.0.0.1", "127.0.0.1")
    guard = Guard(
        make_app(engine, batcher, found, samples), found, hosts=hosts, any_address=any_address
    )
    started = threading.Event()
    server, address = Server(guard, started.set), address_of(bound)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        assert started.wait(30)
        yield Served(address, guard, batcher)
    finally:
        server.should_exit = True
        thread.join()
