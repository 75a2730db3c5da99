"""One measurement of gpu.py, in a process of its own: `gpu_measure.py KIND ARGUMENTS RESULT`.

ARGUMENTS is a JSON object, what is measured goes to the file RESULT as another one. Nothing heavy
is imported before it is needed: what one measurement lacks must not end the others.
"""

import contextlib
import functools
import glob
import gzip
import hashlib
import json
import os
import pathlib
import sys
import tempfile
import time
import zipfile

TRACE_BYTES = 5 * 2**20  # of a saved trace, at most
TRACED_STEPS = 3
JPEGS, JPEG_SIZE = 512, (375, 500)  # of the input pipeline: as many pixels as ImageNet's


def seconds_per_step(step, finish, seconds):
    """Returns the seconds of a step; steps do not wait for each other's end."""
    for _ in range(3):
        step()
    finish()
    start = time.perf_counter()
    step()
    finish()
    count = max(1, round(seconds / (time.perf_counter() - start)))
    start = time.perf_counter()
    for _ in range(count):
        step()
    finish()
    return (time.perf_counter() - start) / count


def rate(side):
    """Returns the FLOP/s of large bfloat16 products."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0))
    left, right = (jax.random.normal(key, (side, side), jnp.bfloat16) for key in keys)
    product, out = jax.jit(jnp.matmul), left

    def step():
        nonlocal out
        out = product(left, right)

    seconds = seconds_per_step(step, lambda: out.block_until_ready(), 0.5)
    return {"flops": 2 * side**3 / seconds, "device": jax.devices()[0].device_kind}


def train(model, batch, seconds, side, options):
    """Returns speed and memory of this project's training step, compiled ahead."""
    import jax

    state, images, compiled, compile_seconds = _compiled(model, batch, side, options)
    metrics = {}

    def step():
        nonlocal state, metrics
        state, metrics = compiled(state, images)

    step_seconds = seconds_per_step(step, lambda: jax.block_until_ready(state), seconds)
    if metrics["skipped_steps"]:
        raise FloatingPointError(f"{metrics['skipped_steps']} steps were not finite")
    memory = jax.local_devices()[0].memory_stats() or {}
    return {
        "images_per_second": batch / step_seconds,
        "macs": _macs(model, side, options),
        "peak_bytes": memory.get("peak_bytes_in_use", 0),
        "planned_bytes": getattr(compiled.memory_analysis(), "peak_memory_in_bytes", 0),
        "compile_seconds": round(compile_seconds, 1),
        "loss": float(metrics["loss"]),
        "device": jax.devices()[0].device_kind,
    }


def _compiled(model, batch, side, options):
    """Returns the first state, a batch, the compiled step and the seconds that it took."""
    from ours import training as make_training

    from jaxvision.train.sharding import put_batch

    training = make_training(model, side=side, dtype="bfloat16", **options)
    state, images = training.create(), put_batch(training.batch(batch), training.mesh)
    start = time.perf_counter()
    compiled = training.train_step.lower(state, images).compile()
    return state, images, compiled, time.perf_counter() - start


def _macs(model, side, options):
    """Returns the multiply-adds of one image, forward."""
    from jaxvision.profiling import cost

    how_not_what = {"attention", "scan", "remat"}
    shape = {name: value for name, value in options.items() if name not in how_not_what}
    if side and model.startswith(("vit", "swin")):
        shape["image_size"] = side
    abstract = cost.abstract_model(model, **shape)
    images = cost.image_batch(abstract, side or 224, side or 224)
    return cost.total(cost.trace_model(abstract, images).work)[0]


def train_timm(model, peer, batch, seconds, compiled):
    """Returns speed and memory of timm's training step."""
    import throughput
    import torch

    import jaxvision as jv

    torch.set_float32_matmul_precision("high")
    step, finish = throughput.torch_step(
        throughput.peer_model(peer or model),
        "train",
        batch,
        dtype="bfloat16",
        channels_last=jv.get_spec(model).family.startswith(throughput.CONVOLUTIONAL),
        compiled=compiled,
    )
    start = time.perf_counter()
    step()
    finish()
    compile_seconds = time.perf_counter() - start
    step_seconds = seconds_per_step(step, finish, seconds)
    on_gpu = torch.cuda.is_available()
    return {
        "images_per_second": batch / step_seconds,
        "macs": _macs(model, None, {}),
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
        "compile_seconds": round(compile_seconds, 1),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }


def numbers(model, batch, side, options, attention):
    """Returns how far loss and gradient of one step are from each other.

    Args:
      model: Name of the model.
      batch: Number of images.
      side: Side of the images in pixels; None: the model's own.
      options: Options of the model.
      attention: Implementation that is compared with "fused", both with fused float32.
    """
    import jax
    import numpy as np
    from ours import training

    def gradient(dtype, implementation):
        made = training(model, side=side, dtype=dtype, **options | {"attention": implementation})
        gradients, loss = made.gradient(made.create(), made.batch(batch))
        leaves = {jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(gradients)}
        return {k: np.asarray(v, np.float64) for k, v in leaves.items()}, float(loss)

    def distances(found, expected):
        norms = {
            name: (np.linalg.norm(found[name] - value), np.linalg.norm(value))
            for name, value in expected.items()
        }
        error, size = np.linalg.norm(list(norms.values()), axis=0)
        # Not those that are 0 but for rounding, as the biases of keys have.
        large = {name: x / y for name, (x, y) in norms.items() if y > 1e-4 * size}
        worst = max(large, key=large.__getitem__)
        return {"gradient": float(error / size), "worst": f"{worst} {large[worst]:.1e}"}

    with jax.default_matmul_precision("highest"):
        exact, exact_loss = gradient("float32", "fused")
    fused, fused_loss = gradient("bfloat16", "fused")
    other, other_loss = gradient("bfloat16", attention)
    return {
        "losses": {"float32": exact_loss, "fused": fused_loss, attention: other_loss},
        f"{attention} from fused": distances(other, fused),
        "fused from float32": distances(fused, exact),
        f"{attention} from float32": distances(other, exact),
    }


def profile(model, batch, side, options, folder):
    """Returns the slowest kernels of a training step; all of them and a trace go to a folder."""
    import jax

    state, images, compiled, _ = _compiled(model, batch, side, options)
    for _ in range(3):
        state, _ = compiled(state, images)
    jax.block_until_ready(state)
    tracing = jax.profiler.ProfileOptions()
    tracing.python_tracer_level = 0
    tracing.host_tracer_level = 1
    with tempfile.TemporaryDirectory() as traced:
        with jax.profiler.trace(traced, profiler_options=tracing):
            for _ in range(TRACED_STEPS):
                state, _ = compiled(state, images)
            jax.block_until_ready(state)
        (planes,) = glob.glob(f"{traced}/**/*.xplane.pb", recursive=True)
        kernels = _kernels(jax.profiler.ProfileData.from_file(planes))
        for trace in glob.glob(f"{traced}/**/*.trace.json.gz", recursive=True):
            _save_trimmed(trace, f"{folder}/profile.trace.json.gz")
    total = sum(milliseconds for _, milliseconds in kernels.values())
    lines = [
        f"{milliseconds:9.4f} ms {milliseconds / total:6.1%} {count:7.1f}x  {name}"
        for name, (count, milliseconds) in sorted(kernels.items(), key=lambda x: -x[1][1])
    ]
    text = f"{model} {options}, batch {batch}, of one step: {total:.3f} ms of kernels\n"
    pathlib.Path(folder, "profile.txt").write_text(text + "\n".join(lines) + "\n")
    return {"milliseconds": total, "kernels": len(kernels), "slowest": lines[:10]}


def _kernels(data):
    """Returns (count, milliseconds) of a step by kernel and operation."""
    kernels = {}
    devices = [plane for plane in data.planes if plane.name.startswith("/device:")]
    for plane in devices or data.planes:
        lines = list(plane.lines)
        # The others are the same time again, by module or scope.
        for line in [x for x in lines if x.name.startswith("Stream")] or lines:
            for event in line.events:
                stats = dict(event.stats)
                name = f"{event.name} [{stats.get('hlo_op', '')}]"
                count, spent = kernels.get(name, (0, 0.0))
                kernels[name] = (count + 1, spent + event.duration_ns / 1e6)
    return {k: (n / TRACED_STEPS, spent / TRACED_STEPS) for k, (n, spent) in kernels.items()}


def _save_trimmed(source, target):
    """Saves a trace of events on the device, of as many as `TRACE_BYTES` hold from the start on."""
    with gzip.open(source) as file:
        trace = json.load(file)
    events = [event for event in trace["traceEvents"] if event]
    named = [event for event in events if event["ph"] == "M"]
    devices = {e["pid"] for e in named if "device:" in str(e.get("args", {}).get("name"))}
    timed = [e for e in events if e["ph"] != "M" and (not devices or e["pid"] in devices)]
    timed.sort(key=lambda event: event.get("ts", 0))
    while True:
        packed = gzip.compress(json.dumps(trace | {"traceEvents": named + timed}).encode())
        if len(packed) <= TRACE_BYTES or not timed:
            break
        timed = timed[: len(timed) // 2]
    pathlib.Path(target).write_bytes(packed)


def deterministic(model, batch, side, options, steps):
    """Returns a hash of the state after some steps with kernels of a fixed order, and speed."""
    from jaxvision.command_line import use_deterministic_kernels

    use_deterministic_kernels()  # before JAX starts
    import jax
    import numpy as np

    # Not the programs of another process: each is to choose its kernels itself.
    jax.config.update("jax_enable_compilation_cache", False)
    state, images, compiled, _ = _compiled(model, batch, side, options)
    start = time.perf_counter()
    for _ in range(steps):
        state, metrics = compiled(state, images)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((state.params, state.batch_stats, state.opt_state)):
        digest.update(np.asarray(leaf).tobytes())
    return {
        "images_per_second": steps * batch / seconds,
        "sha256": digest.hexdigest()[:16],
        "loss": float(metrics["loss"]),
        "device": jax.devices()[0].device_kind,
    }


def reading(workers, batch, seconds, archive):
    """Returns images/s of the input pipeline alone; JPEGs are drawn where there are none."""
    from jaxvision.data.augment.transforms import train_transform
    from jaxvision.data.pipeline import train_dataset
    from jaxvision.data.sources.open_source import open_source

    path = pathlib.Path(archive)
    if not path.exists():
        _draw_jpegs(path)
    source = open_source("folder", path=str(path.parent), split=path.name)
    batches = train_dataset(
        source,
        transform=train_transform(224),
        batch_size=batch,
        seed=0,
        num_workers=workers,
    )
    with contextlib.closing(batches):
        step = functools.partial(next, batches)
        step_seconds = seconds_per_step(step, lambda: None, seconds)
    return {"images_per_second": batch / step_seconds, "cores": len(os.sched_getaffinity(0))}


def _draw_jpegs(path):
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    height, width = JPEG_SIZE
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path.with_suffix(".part"), "w") as archive:
        for index in range(JPEGS):
            coarse = rng.integers(0, 256, (height // 25, width // 25, 3), np.uint8)
            image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
            noise = rng.integers(0, 48, image.shape, np.uint8)
            image = cv2.add(image, cv2.GaussianBlur(noise, (3, 3), 0))
            _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
            archive.writestr(f"{'abcd'[index % 4]}/{index}.jpg", data.tobytes())
    path.with_suffix(".part").rename(path)


def tests(select):
    """Returns how many of the tests of a GPU passed, and what the others said."""
    import pytest

    counts, failed = {}, {}

    class Reports:
        def pytest_runtest_logreport(self, report):
            if report.when == "call" or report.outcome != "passed":
                counts[report.outcome] = counts.get(report.outcome, 0) + 1
            if report.failed:
                crash = getattr(report.longrepr, "reprcrash", None)
                failed[report.nodeid.partition("::")[2]] = getattr(crash, "message", "")[:300]

    # Not strict about options, which belong to plugins that may be missing.
    options = "-v -W default -p no:cacheprovider --log-cli-level=INFO -o".split()
    options += ["addopts=--import-mode=importlib", "-k", select, "tests/test_gpu.py"]
    code = pytest.main(options, plugins=[Reports()])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {code!r}")
    return {"tests": counts} | ({"failures": failed} if failed else {})


KINDS = {
    function.__name__: function
    for function in (rate, train, train_timm, numbers, profile, deterministic, reading, tests)
}


def main():
    """Measures, and writes what came out."""
    kind, arguments, result = sys.argv[1:]
    arguments = json.loads(arguments)
    for name, value in arguments.get("options", {}).items():
        if isinstance(value, list):  # configs of models are hashable
            arguments["options"][name] = tuple(value)
    found = KINDS[kind](**arguments)
    pathlib.Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
