"""A real uvicorn on a loopback port: equal to `predict`, under load, and with hostile input."""

import base64
import contextlib
import http.client
import io
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import bad_files
import finished_run
import numpy as np
import PIL.Image
import pytest
from launching import ROOT, free_port

pytest.importorskip("fastapi", reason="needs the extra `serve`")

from serving_thread import form, served
from starlette.datastructures import Headers

from jaxvision.__main__ import main
from jaxvision.data.image_files import find_images
from jaxvision.evaluation.explain import explain_images
from jaxvision.evaluation.predict import predict
from jaxvision.interop.trained import open_trained
from jaxvision.serving import guard
from jaxvision.serving.batcher import Batcher, batch_sizes
from jaxvision.serving.engine import ClassEngine
from jaxvision.serving.samples import find_samples

LIMITS = {"max_bytes": 1 << 20, "max_pixels": 1_000_000, "max_images": 40}


def encoded(mode="RGB", size=(50, 40), file_format="PNG", seed=0, **options):
    width, height = size
    channels = len(PIL.Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).bytes(width * height * channels)
    buffer = io.BytesIO()
    PIL.Image.frombytes(mode, size, pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


def black(width, height):
    buffer = io.BytesIO()
    PIL.Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def rotated():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return encoded(file_format="JPEG", exif=exif.tobytes())


def animated():
    frames = [PIL.Image.new("RGB", (40, 40), color) for color in ("red", "blue", "white")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


IMAGES = {
    "plain.png": encoded(),
    "grey.png": encoded("L"),
    "alpha.png": encoded("RGBA"),
    "cmyk.jpg": encoded("CMYK", file_format="JPEG"),
    "phone.jpg": rotated(),
    "film.gif": animated(),
    "large.webp": encoded(size=(999, 1000), file_format="WEBP", quality=1),
    "small.bmp": encoded(size=(32, 33), file_format="BMP"),
}


@pytest.fixture(autouse=True)
def cache_of_the_tests(monkeypatch):
    monkeypatch.setattr("jaxvision.compile_cache.cache_compilation", lambda: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    finished_run.write(folder)
    return folder


@pytest.fixture(scope="module")
def engine(folder):
    trained = open_trained(str(folder))
    return ClassEngine(trained, trained.class_names, top=5)


@pytest.fixture(scope="module")
def server(engine, folder):
    with served(engine, samples=find_samples(None, str(folder), engine), **LIMITS) as server:
        server.batcher.seconds = dict.fromkeys(server.batcher.sizes, 1.0)  # as a GPU
        yield server


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    """What `predict --json` says of the images, by name."""
    photos, trained = tmp_path_factory.mktemp("photos"), open_trained(str(folder))
    for name, data in IMAGES.items():
        (photos / name).write_bytes(data)
    found = find_images(str(photos))
    return {
        os.path.basename(prediction.image): [
            {"index": guess.index, "name": guess.name, "probability": guess.probability}
            for guess in prediction.guesses
        ]
        for prediction in predict(
            trained, found, class_names=trained.class_names, top=5, batch_size=1
        )
    }


def check_close(guesses, expected):
    assert [each["index"] for each in guesses] == [each["index"] for each in expected]
    assert [each["name"] for each in guesses] == [each["name"] for each in expected]
    values = [[each["probability"] for each in rows] for rows in (guesses, expected)]
    np.testing.assert_allclose(*values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_alone_gets_the_very_numbers_of_predict(server, expected, name):
    status, told = server.predict((name, IMAGES[name]))
    assert status == 200 and told["model"] == "vit_ti16"
    assert told["results"] == [{"image": name, "guesses": expected[name]}]


def test_several_images_of_a_request_are_computed_together(server, expected, monkeypatch):
    """A batch of another size sums in another order: the last bits differ."""
    sizes, compute = [], server.batcher._engine.compute

    def counting(pixels, asked):
        sizes.append(len(pixels))
        return compute(pixels, asked)

    monkeypatch.setattr(server.batcher._engine, "compute", counting)
    status, told = server.predict(*IMAGES.items(), top=5)
    assert status == 200 and len(sizes) < len(IMAGES)
    assert [result["image"] for result in told["results"]] == list(IMAGES)
    for result in told["results"]:
        check_close(result["guesses"], expected[result["image"]])


@pytest.mark.parametrize("target", [None, 3])
def test_maps_are_those_of_explain(server, engine, folder, expected, tmp_path, target):
    assert engine.maps == ("gradcam", "attention", "rollout", "gradient-rollout")
    (tmp_path / "grey.png").write_bytes(IMAGES["grey.png"])
    trained, images = open_trained(str(folder)), find_images(str(tmp_path))
    labels = [] if target is None else [target]
    (explained,) = explain_images(trained, images, methods=engine.maps, targets=labels)
    chosen = {} if target is None else {"target": target}
    for kind in engine.maps:
        status, told = server.predict(("grey.png", IMAGES["grey.png"]), maps=kind, **chosen)
        (result,) = told["results"]
        assert status == 200 and result["guesses"] == expected["grey.png"]
        name = engine.class_names[explained.targets[0]]
        values = explained.maps[kind][0].tolist()
        assert result["maps"] == [{"kind": kind, "label": name, "values": values}]
        seen = PIL.Image.open(io.BytesIO(base64.b64decode(result["seen"].partition(",")[2])))
        np.testing.assert_array_equal(np.asarray(seen), explained.pixels)


def test_who_asks_for_no_map_gets_none(server, expected, monkeypatch):
    """Both are computed in one batch."""
    begun, goes_on, asked_of = threading.Event(), threading.Event(), []
    compute = server.batcher._engine.compute

    def waiting(pixels, asked):
        begun.set()
        assert goes_on.wait(30)
        asked_of.append([each.maps for each in asked])
        return compute(pixels, asked)

    monkeypatch.setattr(server.batcher._engine, "compute", waiting)
    photo, deadline = ("plain.png", IMAGES["plain.png"]), time.monotonic() + 30
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(server.predict, photo)]
        assert begun.wait(30)
        answers += [
            pool.submit(server.predict, photo, **each) for each in ({"maps": "gradcam"}, {})
        ]
        while len(server.batcher) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        goes_on.set()
        results = [answer.result()[1]["results"][0] for answer in answers]
    assert sorted(map(len, asked_of)) == [1, 2]
    assert ["maps" in result for result in results] == [False, True, False]
    for result in results:
        check_close(result["guesses"], expected["plain.png"])


def test_maps_are_chosen(folder):
    trained = open_trained(str(folder))
    assert ClassEngine(trained, (), top=1, maps=["eigencam"]).maps == ("eigencam",)
    assert ClassEngine(trained, (), top=1, maps=[]).maps == ()


def test_json_with_base64(server, expected):
    images = [base64.b64encode(IMAGES[name]).decode() for name in ("phone.jpg", "cmyk.jpg")]
    body = json.dumps({"images": images, "top": 2})
    status, told = server.ask(body=body, headers={"Content-Type": "application/json"})
    assert status == 200
    assert [result["image"] for result in told["results"]] == ["image 1", "image 2"]
    check_close(told["results"][0]["guesses"], expected["phone.jpg"][:2])
    check_close(told["results"][1]["guesses"], expected["cmyk.jpg"][:2])


def test_batch_sizes():
    assert [batch_sizes(n) for n in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


def test_the_size_of_a_batch_is_that_of_most_images_in_a_second(engine):
    batcher = Batcher(engine, (1, 2, 4, 8))
    assert [batcher.size_for(n) for n in (1, 2, 3, 5, 8, 99)] == [1, 2, 4, 8, 8, 8]  # time is equal
    batcher.seconds = {1: 1.0, 2: 1.9, 4: 3.6, 8: 7.0}  # a CPU: as long for black images
    assert [batcher.size_for(n) for n in (1, 2, 3, 5, 7, 8, 99)] == [1, 2, 2, 4, 4, 8, 8]
    batcher.start()
    assert all(0 < seconds < 60 for seconds in batcher.seconds.values())


def test_32_clients_at_once(server, expected, monkeypatch):
    """Each gets the answer to its own image, and they share batches."""
    sizes, compute = [], server.batcher._engine.compute

    def counting(pixels, asked):
        sizes.append(len(pixels))
        while len(sizes) == 1 and len(server.batcher) < 24:  # the first may hold 8 of 32
            time.sleep(0.01)
        return compute(pixels, asked)

    monkeypatch.setattr(server.batcher._engine, "compute", counting)
    names = list(IMAGES)

    def client(number):
        for turn in range(4):
            name = names[(number + turn) % len(names)]
            status, told = server.predict((name, IMAGES[name]))
            assert status == 200, told
            (result,) = told["results"]
            assert result["image"] == name
            check_close(result["guesses"], expected[name])

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(client, range(32)))
    assert sizes[1:4] == [8, 8, 8] and set(sizes) <= {1, 2, 4, 8} and len(sizes) < 128
    assert server.guard.requests == server.guard.bytes == 0


def json_of(text):
    data = text if isinstance(text, bytes) else text.encode()
    return {"body": data, "headers": {"Content-Type": "application/json"}}


def with_header(name, value, **request):
    request = request or form(("a.png", IMAGES["plain.png"]))
    return request | {"headers": request["headers"] | {name: value}}


def chunked(size):
    request = form(("a.png", bytes(size)))
    body = request["body"]
    return request | {"body": (body[i : i + 65536] for i in range(0, len(body), 65536))}


ROWS = {
    "no-image": (form(("a.png", b"no image")), 422, ["a.png cannot be used: it is of none of the"]),
    "empty": (form(("a.png", b"")), 422, ["a.png cannot be used: it is empty."]),
    "short": (form(("a.png", IMAGES["plain.png"][:99])), 422, ["a.png cannot be used: it cannot"]),
    "one-of-two": (
        form(("a.png", IMAGES["plain.png"]), ("b.png", b"x")),
        422,
        ["b.png cannot be used"],
    ),
    "bomb": (
        form(("a.png", bad_files.bomb())),
        422,
        ["a.png cannot be used: it cannot be decoded (DecompressionBombError"],
    ),
    "pixels": (
        form(("a.png", black(1001, 1000))),
        422,
        ["a.png cannot be used: it has 1001 x 1000 pixels, more than max_pixels = 1,000,000."],
    ),
    "tiny": (
        form(("a.png", encoded(size=(1, 1)))),
        422,
        ["a.png cannot be used: An image of 1 x 1 pixels does not fill an image_size of 32 x 32"],
    ),
    "script": (form(("<b>.svg", b"<svg onload='alert(1)'/>")), 422, ["<b>.svg cannot be used"]),
    "escape": (form(("\x1b[2J.png", b"x")), 422, ["\\x1b[2J.png cannot be used"]),
    "long-name": (form(("a" * 1000, b"x")), 422, ["aaa ... ", "formats"]),
    "no-images": (form(top=3), 422, ["There is no image in the request.", "curl -F"]),
    "many": (json_of(json.dumps({"images": ["eA=="] * 41})), 422, ["at most 40", "not 41"]),
    "many-files": (form(*[("a.png", b"x")] * 41), 400, ["Too many files", "40"]),
    "many-fields": (form(**{f"f{i}": "x" for i in range(99)}), 400, ["Too many fields"]),
    "top": (form(("a.png", b"x"), top=0), 422, ["top", "greater than or equal to 1"]),
    "top-text": (form(("a.png", b"x"), top="ten"), 422, ["top", "valid integer"]),
    "field": (form(("a.png", b"x"), tops=1), 422, ["tops", "not permitted"]),
    "no-file": (form(images="eA=="), 422, ["images", "not permitted"]),
    "maps": (form(("a.png", b"x"), maps="gradcm"), 422, ["'gradcm'; did you mean 'gradcam'?"]),
    "maps-not-here": (form(("a.png", b"x"), maps="eigencam"), 422, ["one of gradcam, attention,"]),
    "target": (form(("a.png", b"x"), maps="gradcam", target=8), 422, ["classes 0 to 7, not 8."]),
    "target-large": (form(("a.png", b"x"), maps="gradcam", target="9" * 999), 422, ["99 ... 99"]),
    "target-negative": (form(("a.png", b"x"), maps="gradcam", target=-1), 422, ["equal to 0"]),
    "target-text": (form(("a.png", b"x"), maps="gradcam", target="cat"), 422, ["valid integer"]),
    "target-alone": (form(("a.png", b"x"), target=1), 422, ["ask for maps, or leave it out"]),
    "large": (form(("a.png", bytes(20 << 20))), 413, ["larger than 1 MB"]),
    "large-chunked": (chunked(20 << 20), 413, ["larger than 1 MB"]),
    "no-form": ({"body": b"x"}, 415, ["multipart/form-data", "application/json"]),
    "boundary": (
        {"body": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        ["boundary"],
    ),
    "broken-form": (
        {"body": b"xx", "headers": {"Content-Type": "multipart/form-data; boundary=y"}},
        400,
        ["multipart"],
    ),
    "json": (json_of("{"), 422, ["The request is wrong", "JSON"]),
    "json-bytes": (json_of(b"\xff\xfe"), 422, ["The request is wrong"]),
    "json-deep": (json_of("[" * 100_000), 422, ["The request is wrong", "recursion"]),
    "json-kind": (json_of('{"images": 3}'), 422, ["images", "valid array"]),
    "json-missing": (json_of("{}"), 422, ["images", "Field required"]),
    "base64": (json_of('{"images": ["eA==", "?"]}'), 422, ["image 2 is no base64"]),
    "base64-text": (json_of('{"images": ["ä"]}'), 422, ["image 1 is no base64"]),
    "host": (with_header("Host", "evil.example"), 403, ["'evil.example'", "--allow-host=NAME"]),
    "host-address": (with_header("Host", "10.0.0.1:80"), 403, ["'10.0.0.1:80'"]),
    "host-like": (with_header("Host", "127.0.0.1.evil.example"), 403, ["evil.example'"]),
    "origin": (with_header("Origin", "http://evil.example"), 403, ["'http://evil.example'"]),
    "origin-null": (with_header("Origin", "null"), 403, ["'null'"]),
    "origin-port": (with_header("Origin", "http://127.0.0.1:1"), 403, ["'http://127.0.0.1:1'"]),
    "path": ({"method": "GET", "path": "/admin"}, 404, ["no GET /admin", "POST /predict"]),
    "method": ({"method": "GET"}, 405, ["no GET /predict"]),
    "sample": ({"method": "GET", "path": "/samples/99"}, 404, ["no sample 99"]),
    "sample-text": ({"method": "GET", "path": "/samples/x"}, 400, ["/samples/x is no valid"]),
    "sample-path": ({"method": "GET", "path": "/page/../app.py"}, 404, ["There is no GET"]),
    "sample-path-2": ({"method": "GET", "path": "/page/%2e%2e/app.py"}, 404, ["There is no GET"]),
}


@pytest.mark.parametrize("row", ROWS)
def test_what_is_wrong_is_said_in_a_sentence(server, row):
    request, status, words = ROWS[row]
    found, told = server.ask(**request)
    assert found == status and set(told) == {"error"}, told
    print(f"\n{row}: {status} {told['error']}")
    assert [word for word in words if word not in told["error"]] == []
    assert told["error"].endswith((".", ")", "?")) and "\n" not in told["error"]
    assert len(told["error"]) < 500
    assert server.guard.requests == server.guard.bytes == 0
    assert server.predict(("a.png", IMAGES["plain.png"]))[0] == 200  # it goes on


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]"])
def test_its_own_page_may_call_it(server, name):
    port = urllib.parse.urlsplit(server.address).port
    own = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
    request = form(("a.png", IMAGES["plain.png"]))
    assert server.ask(body=request["body"], headers=request["headers"] | own)[0] == 200


def test_another_address_is_called_by_addresses_and_its_names():
    hosts, any_address = guard.allowed_hosts("0.0.0.0", "0.0.0.0")
    checked = guard.Guard(None, guard.Limits(), hosts=(*hosts, "photos"), any_address=any_address)
    own = socket.gethostname().lower()
    for host in ("10.0.0.1:8000", "[fe80::1]:8000", "photos", "PHOTOS:80", own):
        assert checked._foreign(Headers({"host": host})) == "", host
    assert "evil.example" in checked._foreign(Headers({"host": "evil.example"}))


def test_a_request_that_never_ends(server, monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    netloc = urllib.parse.urlsplit(server.address)
    with socket.create_connection((netloc.hostname, netloc.port), timeout=10) as connection:
        connection.sendall(
            f"POST /predict HTTP/1.1\r\nHost: {netloc.netloc}\r\nContent-Length: 99\r\n"
            "Content-Type: application/json\r\n\r\n{".encode()
        )
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 408 ") and "was not sent within" in answer
    assert server.guard.requests == 0


def test_a_client_that_leaves(server):
    netloc = urllib.parse.urlsplit(server.address)
    for end in (b"", b"{"):
        with socket.create_connection((netloc.hostname, netloc.port)) as connection:
            connection.sendall(
                f"POST /predict HTTP/1.1\r\nHost: {netloc.netloc}\r\nContent-Length: 99\r\n"
                "Content-Type: application/json\r\n\r\n".encode()
                + end
            )
    deadline = time.monotonic() + 10
    while server.guard.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.guard.requests == server.guard.bytes == 0


def test_a_full_queue_is_said_and_nothing_is_lost(engine, monkeypatch):
    with served(engine, batch=1, queue=3, **LIMITS) as server:
        goes_on, compute = threading.Event(), engine.compute

        def waiting(pixels, asked):
            assert goes_on.wait(30)
            return compute(pixels, asked)

        monkeypatch.setattr(engine, "compute", waiting)
        request = form(("a.png", IMAGES["plain.png"]))
        with ThreadPoolExecutor(3) as pool:
            first = [pool.submit(server.ask, **request) for _ in range(3)]
            while server.guard.requests < 3:
                time.sleep(0.01)
            status, headers, data = server.fetch("POST", "/predict", **request)
            goes_on.set()
            assert status == 503 and headers["Retry-After"] == "1"
            assert json.loads(data)["error"] == (
                "The server has as many requests as it takes: try again."
            )
            assert [answer.result()[0] for answer in first] == [200] * 3
        assert server.ask(**request)[0] == 200


def test_bodies_in_memory_are_bounded(engine):
    """Requests that send nothing hold what they announce: eight of the greatest size, no more."""
    with served(engine, batch=1, **LIMITS) as server, contextlib.ExitStack() as stack:
        netloc = urllib.parse.urlsplit(server.address)
        for _ in range(8):
            connection = stack.enter_context(
                contextlib.closing(http.client.HTTPConnection(netloc.netloc))
            )
            connection.putrequest("POST", "/predict")
            connection.putheader("Content-Length", str(LIMITS["max_bytes"]))
            connection.putheader("Content-Type", "application/json")
            connection.endheaders()
        while server.guard.requests < 8:
            time.sleep(0.01)
        assert server.predict(("a.png", IMAGES["plain.png"]))[0] == 503


def test_a_failure_of_the_model_is_no_end(engine, monkeypatch, caplog):
    with served(engine, batch=1, **LIMITS) as server:
        with monkeypatch.context() as patched:

            def failing(pixels, asked):
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

            patched.setattr(engine, "compute", failing)
            status, told = server.predict(("a.png", IMAGES["plain.png"]))
        assert status == 500 and "The server failed on this request" in told["error"]
        assert "RESOURCE_EXHAUSTED" not in told["error"]
        assert server.predict(("a.png", IMAGES["plain.png"]))[0] == 200
        assert "RESOURCE_EXHAUSTED" in caplog.text


def test_numbers_that_are_none_are_said(engine, server, monkeypatch):
    values = np.full(8, np.nan, np.float32), np.arange(8, dtype=np.int32)
    monkeypatch.setattr(engine, "compute", lambda pixels, asked: [{"": values}] * len(pixels))
    status, told = server.predict(("a.png", IMAGES["plain.png"]))
    sentence = "a.png cannot be used: the model gives no finite probabilities for it."
    assert (status, told) == (422, {"error": sentence})


def test_health_page_samples_and_openapi(server):
    status, health = server.ask("GET", "/health")
    assert status == 200 and health["status"] == "ready" and health["batch_sizes"] == [1, 2, 4, 8]
    assert len(health["samples"]) == 8 and health["max_pixels"] == 1_000_000
    status, headers, data = server.fetch("GET", "/samples/0")
    assert status == 200 and headers["Content-Type"] == "image/png"
    assert PIL.Image.open(io.BytesIO(data)).size == (32, 32)
    for path, kind in (("/", "text/html"), ("/page/page.js", "text/javascript")):
        status, headers, data = server.fetch("GET", path)
        assert status == 200 and headers["Content-Type"].startswith(kind)
        assert b"http://" not in data and b"https://" not in data  # nothing from elsewhere
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
    status, described = server.ask("GET", "/openapi.json")
    body = described["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert status == 200 and set(body) == {"multipart/form-data", "application/json"}
    assert all({"maps", "target"} <= set(each["schema"]["properties"]) for each in body.values())
    assert "$defs" not in json.dumps(described)
    assert server.fetch("GET", "/docs")[0] == 404  # it would load scripts from elsewhere


def half_sent(line, stop):
    """Sends half a request, then the signal, then the other half; returns the answer."""
    assert line.startswith("Serving vit_ti16 at http://127.0.0.1:"), line
    netloc, request = urllib.parse.urlsplit(line.split()[3]).netloc, form(("a.png", black(40, 40)))
    connection = http.client.HTTPConnection(netloc, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(len(request["body"])))
        connection.putheader("Content-Type", request["headers"]["Content-Type"])
        connection.endheaders(request["body"][:100])
        with contextlib.closing(http.client.HTTPConnection(netloc, timeout=30)) as other:
            other.request("GET", "/health")
            assert other.getresponse().status == 200
        stop()
        time.sleep(0.5)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(tuple(netloc.split(":")))
        connection.send(request["body"][100:])
        answer = connection.getresponse()
        assert answer.status == 200 and len(json.loads(answer.read())["results"]) == 1


def test_sigterm_ends_a_process_when_all_is_answered(folder):
    """A real process, which takes its seconds to start."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
    command = [
        sys.executable,
        "-m",
        "jaxvision",
        "serve",
        f"--run={folder}",
        "--batch=1",
        "--maps=none",
    ]
    port = free_port()
    with subprocess.Popen(
        [*command, f"--port={port}"],
        cwd=ROOT,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        try:
            half_sent(process.stdout.readline(), process.terminate)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 143 and out == "Stopped by SIGTERM after 2 requests.\n"
    assert "Traceback" not in err and "Compiled batches of 1 in" in err


def test_ctrl_c_does_the_same(folder, monkeypatch):
    said, failed = queue.Queue(), []
    monkeypatch.setattr("jaxvision.command_line.say", said.put)

    def client():
        try:
            half_sent(said.get(timeout=60), lambda: os.kill(os.getpid(), signal.SIGINT))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=client)
    thread.start()
    assert main(["serve", f"--run={folder}", "--batch=1", "--port=0"]) == 130
    thread.join()
    assert not failed and said.get() == "Stopped by SIGINT after 2 requests."


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("--port={used}", ["Port {used} of 127.0.0.1 is in use", "--port=0"]),
        ("--port=70000", ["0 to 65535", "'70000'"]),
        ("--host=no.such.host.invalid", ["--host=no.such.host.invalid is no address"]),
        ("--host=192.0.2.1", ["--host=192.0.2.1 --port=8000 cannot be opened"]),
        ("--batch=0 --port=0", ["at least 1", "'0'"]),
        ("--samples={tmp}/none --port=0", ["There is no image, folder or zip {tmp}/none"]),
        ("--maps=gradcm --port=0", ["--maps must be one of gradcam", "'gradcm'; did you mean"]),
        ("--maps=occlusion --port=0", ["--maps must be one of gradcam", "'occlusion'"]),
        ("--maps= --port=0", ["--maps must be one of gradcam", "got ''"]),
        ("--beam=3 --port=0", ["is no run of a captioner: leave --beam out"]),
        ("--classes={tmp}/none --port=0", ["There is no file of class names {tmp}/none"]),
        ("--model=vit_b16 --pretrained", ["Give --weights=TAG, FILE or RUN"]),
    ],
)
def test_wrong_arguments_end_with_one_sentence(folder, tmp_path, arguments, words, capsys):
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        places = {"used": used.getsockname()[1], "tmp": tmp_path}
        command = ["serve", f"--run={folder}", *arguments.format(**places).split()]
        try:
            code = main(command)
        except SystemExit as stop:
            code = stop.code
    out, err = capsys.readouterr()
    (line,) = [each for each in err.splitlines() if each.startswith("error: ")]
    assert code == 2 and not out
    assert [word for word in words if word.format(**places) not in line] == []


def test_without_the_extra(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [name for name in sys.modules if name.startswith("jaxvision.serving")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["serve", f"--run={folder}", "--port=0"]) == 2
    assert capsys.readouterr().err == (
        "error: serve needs fastapi, which is not installed: pip install 'jaxvision-nnx[serve]'.\n"
    )
