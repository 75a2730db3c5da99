"""Requests per second and latency of `jaxvision serve`, batched beside one image at a time.

`python benchmarks/serve.py`: EfficientNet-Lite0 of the extra `weights` behind the real server on a
loopback port, once with batches of up to 8 and once with batches of 1, in turns; clients in a
process of their own send JPEGs of 400 x 300 pixels one after the other, each waiting for its
answer. Beside them the same calls without a server, decoding included. Needs the extras `serve` and
`weights`; four minutes on 2 CPU cores.
"""

import argparse
import io
import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import timing

TAG = "tf_efficientnet_lite0.ml_illustrated_in1k"
# Clients of a process of their own, or they would take the server's Python.
CLIENTS = """
import http.client, json, sys, threading, time
netloc, clients, seconds, kind = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
body, latencies = sys.stdin.buffer.read(), []
end = time.perf_counter() + seconds
def client():
    connection = http.client.HTTPConnection(netloc)
    while (start := time.perf_counter()) < end:
        connection.request("POST", "/predict", body, {"Content-Type": kind})
        answer = connection.getresponse()
        data = answer.read()
        assert answer.status == 200, data
        latencies.append(time.perf_counter() - start)
threads = [threading.Thread(target=client) for _ in range(clients)]
start = time.perf_counter()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([len(latencies) / (time.perf_counter() - start), latencies]))
"""


def photo() -> bytes:
    """Returns a JPEG that looks like none of the others' and decodes as a photo does."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(coarse).resize((400, 300), PIL.Image.Resampling.BICUBIC).save(
        buffer, "JPEG", quality=90
    )
    return buffer.getvalue()


def measure(server, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Returns requests per second and the seconds of each."""
    import json

    from serving_thread import form

    request = form(("a.jpg", photo()))
    netloc = server.address.removeprefix("http://")
    command = [sys.executable, "-c", CLIENTS, netloc, str(clients), str(seconds)]
    command.append(request["headers"]["Content-Type"])
    ended = subprocess.run(command, input=request["body"], capture_output=True, check=True)
    rate, latencies = json.loads(ended.stdout)
    return rate, latencies


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=3, help="turns of each")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a turn")
    options = parser.parse_args()
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests"))
    import jax.numpy as jnp
    from serving_thread import served

    from jaxvision.data.decode import decode_image
    from jaxvision.evaluation.predict import best_classes
    from jaxvision.interop.trained import open_trained
    from jaxvision.serving.engine import ClassEngine

    trained, data = open_trained(TAG), photo()
    best = best_classes(trained)

    def call() -> None:
        pixels = trained.transform(decode_image(data, exif_orientation=True), None)
        np.asarray(best(jnp.asarray(pixels[None]))[0])

    def loop() -> tuple[float, list[float]]:
        latencies, end = [], time.perf_counter() + options.seconds
        while (start := time.perf_counter()) < end:
            call()
            latencies.append(time.perf_counter() - start)
        return len(latencies) / sum(latencies), latencies

    call()
    print(timing.machine())
    print(f"load of the machine at the start: {os.getloadavg()[0]:.1f}\n", flush=True)
    engines = [ClassEngine(trained, trained.class_names, top=5, maps=[]) for _ in range(2)]
    with served(engines[0], batch=8) as batched, served(engines[1], batch=1) as single:
        systems = {"one call after the other, no server": loop}
        for clients in (1, 8, 32):
            for name, server in (("up to 8", batched), ("1", single)):
                systems[f"{clients} clients, batches of {name}"] = (
                    lambda server=server, clients=clients: measure(server, clients, options.seconds)
                )
        found: dict[str, list] = {name: [] for name in systems}
        for _ in range(options.blocks):
            for name, system in systems.items():
                found[name].append(system())
    print("| | requests/s | p50, ms | p99, ms |\n|---|---|---|---|")
    for name, blocks in found.items():
        rates = sorted(rate for rate, _ in blocks)
        p50, p99 = np.percentile([1e3 * x for _, each in blocks for x in each], [50, 99])
        spread = f"{statistics.median(rates):.1f} [{rates[0]:.1f}-{rates[-1]:.1f}]"
        print(f"| {name} | {spread} | {p50:.0f} | {p99:.0f} |")
    print(f"\nload of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
