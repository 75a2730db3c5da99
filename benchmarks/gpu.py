"""bfloat16 training on a GPU beside timm with `torch.compile`: images/s, MFU and peak memory.

`python benchmarks/gpu.py --models=vit_b16,vit_l16,resnet50 --batch=256`. The two take turns, each
time in a new process that has the whole memory. MFU: the multiply-adds of three forward passes for
every image, twice, over the rate of large bfloat16 matrix products measured on the same machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import timing

SIDE = 8192  # of the matrices whose product is the ceiling
SYSTEMS = ("jaxvision", "timm")


def measure(system, name, batch, seconds):
    """Prints {"seconds" of one step, "peak" bytes} of one system."""
    import torch
    from throughput import CONVOLUTIONAL, jax_call, torch_call

    import jaxvision as jv

    if system == "jaxvision":
        call = jax_call(name, "train", batch, "bfloat16")
    else:
        torch.set_float32_matmul_precision("high")
        layout = {"channels_last": jv.get_spec(name).family.startswith(CONVOLUTIONAL)}
        call = torch_call(name, "train", batch, dtype="bfloat16", compiled=True, **layout)
    for _ in range(5):
        call()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        call()
        steps += 1
    step_seconds = (time.perf_counter() - start) / steps
    if system == "timm":
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    else:
        import jax

        peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    print(json.dumps({"seconds": step_seconds, "peak": peak}))


def matmul_rate():
    """Prints the FLOP/s of large bfloat16 products."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0))
    left, right = (jax.random.normal(key, (SIDE, SIDE), jnp.bfloat16) for key in keys)
    product = jax.jit(jnp.matmul)
    for _ in range(3):
        product(left, right).block_until_ready()
    start = time.perf_counter()
    for _ in range(20):
        out = product(left, right)
    out.block_until_ready()
    print(json.dumps(20 * 2 * SIDE**3 / (time.perf_counter() - start)))


def run(*arguments):
    """Returns what a new process of this script prints last."""
    # The driver holds no memory of the device, and peaks are those of the allocator.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.check_output(command, env=environment, text=True).split("\n")[-2])


def main():
    """Prints one line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="vit_b16,vit_l16,resnet50")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="timed in each turn")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--rate", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rate:
        return matmul_rate()
    if options.measure:
        return measure(*options.measure, options.batch, options.seconds)
    rate = run("--rate")
    print(f"{timing.machine()}; {rate / 1e12:.0f} TFLOP/s in bfloat16 products")
    for name in options.models.split(","):
        turns = {system: [] for system in SYSTEMS}
        for _ in range(options.turns):
            for system in SYSTEMS:
                arguments = ("--batch", options.batch, "--seconds", options.seconds)
                turns[system].append(run("--measure", system, name, *arguments))
        report(name, options.batch, turns, rate)


def report(name, batch, turns, rate):
    """Prints the medians of both systems, MFU and peak memory."""
    from jaxvision.profiling import cost

    model = cost.abstract_model(name)
    macs, _ = cost.total(cost.trace_model(model, cost.image_batch(model, 224, 224)).work)
    speeds, texts = {}, []
    for system, results in turns.items():
        speeds[system] = batch / statistics.median(result["seconds"] for result in results)
        mfu = speeds[system] * macs * 3 * 2 / rate
        peak = max(result["peak"] for result in results) / 2**30
        texts.append(f"{system} {speeds[system]:.4g} images/s, MFU {mfu:.0%}, {peak:.1f} GiB")
    ratio = speeds["jaxvision"] / speeds["timm"]
    print(f"{name} train, batch {batch}: {ratio:.2f}x; {'; '.join(texts)}", flush=True)


if __name__ == "__main__":
    main()
