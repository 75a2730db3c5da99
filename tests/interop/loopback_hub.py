"""A hub on a loopback port: what huggingface_hub asks for when it downloads and uploads files."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator

import pytest

_COMMIT = "1" * 40


class Hub:
    """Files of repositories, {"owner/name": {file: bytes}}, and what goes wrong.

    Attributes:
      url: Address of the server.
      files: Files of each repository.
      broken_after: Bytes after which the next answer with a file's content breaks off; None: none.
      asked: Requests so far, "GET path" with the range that was asked for.
    """

    def __init__(self, url: str):
        self.url = url
        self.files: dict[str, dict[str, bytes]] = {}
        self.broken_after: int | None = None
        self.asked: list[str] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def do_HEAD(self):
        self._file(with_body=False)

    def do_GET(self):
        self._file(with_body=True)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.hub.files.setdefault(name, {})
            return self._json({"url": f"{self.hub.url}/{name}", "name": name})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/.*", path)
        if not found or found[1] not in self.hub.files:
            return self._error(404, "RepoNotFound")
        if found[2] == "preupload":
            files = json.loads(body)["files"]
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in files
            ]
            return self._json({"files": modes})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.hub.files[found[1]][line["value"]["path"]] = content
        return self._json(
            {"commitUrl": f"{self.hub.url}/{found[1]}/commit/{_COMMIT}", "commitOid": _COMMIT}
        )

    def _file(self, *, with_body: bool) -> None:
        range_asked = self.headers.get("Range")
        self.hub.asked.append(f"{self.command} {self.path} {range_asked or ''}".strip())
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if not found or found[1] not in self.hub.files:
            return self._error(404, "RepoNotFound")
        content = self.hub.files[found[1]].get(found[3])
        if content is None:
            return self._error(404, "EntryNotFound")
        start = int(re.fullmatch(r"bytes=(\d+)-\d*", range_asked)[1]) if range_asked else 0
        part = content[start:]
        self.send_response(206 if range_asked else 200)
        if range_asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", _COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if with_body:
            if self.hub.broken_after is not None:
                part, self.hub.broken_after = part[: self.hub.broken_after], None
                self.close_connection = True
            self.wfile.write(part)

    def _json(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Runs a hub while the block runs."""
    handler = type("Handler", (_Handler,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.hub = hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    """The hub that huggingface_hub and timm talk to, with an empty cache."""
    library = pytest.importorskip("huggingface_hub")
    with serving() as hub:
        constants = library.constants
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(library.hf_api.api, "endpoint", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield hub
