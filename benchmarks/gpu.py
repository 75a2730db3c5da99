"""What a GPU has to show, beside timm with `torch.compile`, in parts of less than ten minutes.

`python benchmarks/gpu.py --part=1 --out=runs/gpu`, or `make gpu` for all four parts:

1. rate of bfloat16 products; ViT-B/16 with fused and cuDNN's attention, scanned and unrolled, and
   timm's; numbers of one step with cuDNN's attention beside the fused one
2. ViT-S/16, ViT-L/16 and ResNet-50, ours as they are without any option, and timm's
3. EfficientNet-B0, ConvNeXt-T, a profile of ViT-B/16, Swin-T
4. tests/test_gpu.py, deterministic steps, the input pipeline with 0 to 12 workers

`--models=vit_h14,resnet101` measures other models with the options that are given. Every line is a
process with its own time limit; what dies or hangs is a line, too, and the next one follows. After
each, `OUT/results.jsonl` (one line each) and `OUT/results.md` are complete; `OUT/log.txt` has what
the processes printed. The same command again goes on where it ended. `--rehearse` tries it all on a
CPU, with tiny models. Part 4 needs pytest, grain with array-record and portpicker, ml_collections
and tensorboardX, or the wheels of those that are missing in a folder that `--wheels` names.

MFU: the multiply-adds of three forward passes for every image, twice, over the measured rate of
large bfloat16 products, and over the 989 TFLOP/s that NVIDIA states for an H100 and an H200.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks/gpu_measure.py"
STATED = 989e12  # FLOP/s of dense bfloat16 products
LEAST = 15.0  # seconds that are left of the budget for a line to begin
PACKAGES = (
    "jax jaxlib jax-cuda13-plugin flax optax numpy nvidia-cudnn-cu13 torch torchvision timm triton"
)
# What makes a model small enough to rehearse with, on a CPU.
TINY = {
    "vit": {"width": 32, "depth": 2, "num_heads": 2},
    "swin": {"width": 16, "stage_depths": (1, 1), "stage_heads": (1, 2)},
    "resnet": {"stage_depths": (1, 1), "stage_widths": (8, 16)},
    "convnext": {"stage_depths": (1, 1), "stage_widths": (8, 16)},
    "efficientnet": {"depth": 0.1},
}


@dataclasses.dataclass(frozen=True)
class Line:
    """One measurement.

    Attributes:
      name: Name, which no other line has.
      kind: Function of gpu_measure.py.
      arguments: Arguments of the function.
      limit: Seconds after which it is stopped.
      about: What the record says of it, beside the result.
    """

    name: str
    kind: str
    arguments: dict
    limit: float
    about: dict = dataclasses.field(default_factory=dict)


class Plan:
    """Makes the lines of the parts.

    Args:
      options: Options of the command line.
    """

    def __init__(self, options):
        self.options = options
        self.batch = 2 if options.rehearse else options.batch
        given = {"attention": options.attention, "scan": options.scan, "remat": options.remat}
        self.given = {name: value for name, value in given.items() if value is not None}

    def lines(self):
        """Returns the lines of the chosen part or models."""
        if self.options.models:
            return [self.rate(), *self.turns([(m, self.given) for m in self.options.models])]
        return {1: self.part_1, 2: self.part_2, 3: self.part_3, 4: self.part_4}[self.options.part]()

    def part_1(self):
        """ViT-B/16 in all ways."""
        pairs = (("cudnn", False), ("fused", True), ("cudnn", True), ("fused", False))
        ways = [{"attention": attention, "scan": scan} for attention, scan in pairs]
        first, second = (self.turn([("vit_b16", way) for way in ways], n) for n in (1, 2))
        return [self.rate(), *first, self.numbers("vit_b16"), *second]

    def part_2(self):
        """Transformers of other sizes, and a ResNet."""
        models = [(name, self.chosen(name)) for name in ("vit_s16", "vit_l16", "resnet50")]
        return [self.rate(), *self.turns(models)]

    def part_3(self):
        """What convolves depthwise, a profile, and windows last: they compile for minutes."""
        models = [(name, self.chosen(name)) for name in ("efficientnet_b0", "convnext_tiny")]
        return [
            self.rate(),
            *self.turn(models, 1),
            self.model_line(
                "profile", "vit_b16", self.chosen("vit_b16"), folder=str(self.options.out)
            ),
            *self.turn(models, 2),
            *self.turns([("swin_t", self.chosen("swin_t"))], limit=280.0),
        ]

    def part_4(self):
        """Tests, determinism, input."""
        rehearse = self.options.rehearse
        archive = self.options.zip or f"{self.options.cache}/jpegs.zip"
        size = {"batch": 16, "seconds": 0.5} if rehearse else {"batch": 256, "seconds": 4.0}
        return [
            Line("tests, short ones", "tests", {"select": "not deterministic"}, 240.0),
            *(
                self.model_line("deterministic", name, self.chosen(name), run=run, steps=10)
                for name in ("vit_b16", "resnet50")
                for run in (1, 2)
            ),
            *(
                Line(
                    f"reading, {workers} workers",
                    "reading",
                    {"workers": workers, "archive": archive, **size},
                    90.0,
                )
                for workers in ((0, 1) if rehearse else (0, 4, 8, 12))
            ),
            Line("tests, deterministic runs", "tests", {"select": "deterministic"}, 300.0),
        ]

    def chosen(self, model):
        """Returns the options of the command line that a model has."""
        blocks = model.startswith(("vit", "swin", "convnext"))
        names = {"scan", "remat"} if blocks else set()
        names |= {"attention"} if model.startswith(("vit", "swin")) else set()
        return {name: value for name, value in self.given.items() if name in names}

    def rate(self):
        """The ceiling, which every part needs."""
        side = 256 if self.options.rehearse else 8192
        return Line("rate of bfloat16 products", "rate", {"side": side}, 60.0)

    def numbers(self, model):
        """One step with two implementations."""
        options = {"scan": False, "attention": "reference" if self.options.rehearse else "cudnn"}
        return self.model_line("numbers", model, options)

    def turns(self, models, limit=180.0):
        """All turns of models with their options, each beside timm's."""
        return [x for n in range(1, self.options.turns + 1) for x in self.turn(models, n, limit)]

    def turn(self, models, turn, limit=180.0):
        """One turn of models with their options; timm's after the first way of each model."""
        lines, peers = [], set()
        for model, options in models:
            seconds = 0.1 if self.options.rehearse else self.options.seconds
            lines.append(self.model_line("train", model, options, turn, limit, seconds=seconds))
            if model not in peers:
                peers.add(model)
                lines.append(self.timm(model, turn, seconds))
        return lines

    def timm(self, model, turn, seconds):
        """One turn of timm's model."""
        peer = None
        if self.options.rehearse:
            peer = "vit_ti16" if model.startswith(("vit", "swin")) else "mobilenet_v3_small"
        return Line(
            f"{model}, timm, batch {self.batch}, turn {turn}",
            "train_timm",
            {
                "model": model,
                "peer": peer,
                "batch": self.batch,
                "seconds": seconds,
                "compiled": not self.options.rehearse,
            },
            180.0,
            {"model": model, "system": "timm", "batch": self.batch, "turn": turn},
        )

    def model_line(self, kind, model, options, turn=None, limit=180.0, *, run=None, **more):
        """A line about a model of ours with options."""
        system = ", ".join(["jaxvision", *(f"{name}={value}" for name, value in options.items())])
        ends = {"turn": turn, "run": run}
        ends = "".join(f", {name} {value}" for name, value in ends.items() if value is not None)
        begin = "" if kind == "train" else f"{kind}: "
        about = {"model": model, "system": system, "batch": self.batch, "turn": turn}
        if self.options.rehearse:
            options = options | next(x for name, x in TINY.items() if model.startswith(name))
        if kind == "numbers":
            more["attention"] = options["attention"]
            options = {name: value for name, value in options.items() if name != "attention"}
        return Line(
            f"{begin}{model}, {system}, batch {self.batch}{ends}",
            kind,
            {
                "model": model,
                "batch": self.batch,
                "side": 64 if self.options.rehearse else None,
                "options": options,
                **more,
            },
            limit,
            about,
        )


class Results:
    """The records in a folder: one line of results.jsonl each, all of them in results.md.

    Args:
      folder: Folder of the files.
      rehearsal: Whether nothing here means anything.
    """

    def __init__(self, folder, rehearsal):
        self.folder, self.rehearsal = folder, rehearsal
        self.records = {}
        with contextlib.suppress(FileNotFoundError):
            for line in (folder / "results.jsonl").read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # torn by a kill
                    record = json.loads(line)
                    self.records[record["line"]] = record

    def has(self, name, retry):
        """Returns whether a line need not be measured again."""
        status = self.records.get(name, {}).get("status")
        return status == "ok" or (status == "error" and not retry)

    def add(self, record):
        """Writes a record to both files, and prints it."""
        if "images_per_second" in record and "macs" in record:
            flops = record["images_per_second"] * record["macs"] * 3 * 2
            rate = self.records.get("rate of bfloat16 products", {}).get("flops")
            record |= {"mfu": flops / rate if rate else None, "mfu_of_989": flops / STATED}
        self.records[record["line"]] = record
        with (self.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        part = self.folder / "results.md.part"
        part.write_text("\n".join(self.text()) + "\n")
        part.rename(self.folder / "results.md")
        print(f"{time.strftime('%H:%M:%S')} {record['line']}: {described(record)}", flush=True)

    def text(self):
        """Yields the lines of results.md."""
        yield (
            "# Measured on a GPU" if not self.rehearsal else "# Rehearsal: no number means anything"
        )
        yield ""
        yield from (f"{r['line']}: {r['text']}  " for r in self.records.values() if "text" in r)
        rate = self.records.get("rate of bfloat16 products", {}).get("flops")
        yield f"bfloat16 products: {rate / 1e12:.0f} TFLOP/s" if rate else "no rate of products"
        yield ""
        yield (
            "| model | system | batch | images/s (lowest-highest) | beside timm | MFU of products"
            " | MFU of 989 TFLOP/s | peak GiB (planned) | compiled in s |"
        )
        yield "|---|---|---|---|---|---|---|---|---|"
        groups = {}
        for record in self.records.values():
            if record["status"] == "ok" and "mfu" in record:
                key = (record["model"], record["system"], record["batch"])
                groups.setdefault(key, []).append(record)
        for (model, system, batch), turns in groups.items():
            peers = groups.get((model, "timm", batch))
            yield f"| {model} | {system} | {batch} | {' | '.join(_cells(turns, peers))} |"
        yield from ("", "| part | line | what came out | s |", "|---|---|---|---|")
        for record in self.records.values():
            if "text" not in record:
                cells = (str(record["part"]), record["line"], described(record))
                text = " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells)
                yield f"| {text} | {record['seconds']:.0f} |"


def _cells(turns, peers):
    speeds = [record["images_per_second"] for record in turns]
    speed = statistics.median(speeds)
    yield f"{speed:.4g} ({min(speeds):.4g}-{max(speeds):.4g})"
    yield (
        f"{speed / statistics.median(p['images_per_second'] for p in peers):.2f}x" if peers else ""
    )
    for name in ("mfu", "mfu_of_989"):
        yield f"{turns[0][name] * speed / speeds[0]:.1%}" if turns[0][name] else ""
    planned = turns[0].get("planned_bytes")
    peak = max(record["peak_bytes"] for record in turns) / 2**30
    yield f"{peak:.1f}" + (f" ({planned / 2**30:.1f})" if planned else "")
    yield ", ".join(str(record["compile_seconds"]) for record in turns)


def described(record):
    """Returns in words what came out of a line."""
    if record["status"] != "ok":
        return f"{record['status']}: {record['error']}"
    if "text" in record:
        return record["text"]
    known = {"line", "part", "status", "seconds", "time", "model", "system", "batch", "turn"}
    shown = {name: value for name, value in record.items() if name not in known}
    return ", ".join(f"{name} {_short(value)}" for name, value in shown.items())


def _short(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_short(inner)}" for name, inner in value.items()) + ")"
    return str(value)


def measure(line, limit, environment, folder):
    """Runs a line in a new process; returns its result, or its error."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, str(SCRIPT), line.kind, json.dumps(line.arguments), str(result)]
    with (folder / "log.txt").open("a+b") as log:
        log.write(f"\n=== {line.name}\n".encode())
        log.flush()
        began = log.seek(0, os.SEEK_END)
        # A group of its own: compilers and workers that it started end with it.
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, process_group=0
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(began)
        said = log.read().decode(errors="replace").strip().splitlines()
    if code == 0 and result.exists():
        found = json.loads(result.read_text())
        result.unlink()
        return {"status": "ok"} | found
    telling = [x for x in said if re.match(r"[\w.]+(Error|Exception|Exit)\b|  what\(\):", x)]
    last = (telling or said or [""])[-1].strip()
    if code is None:
        return {
            "status": "error",
            "error": f"stopped after {limit:.0f} s; last words: {last[:500]}",
        }
    ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return {"status": "error", "error": f"{ended}: {last[:500]}"}


def environment_of(line, options):
    """Returns the environment variables of a line's process."""
    paths = [str(ROOT), str(options.cache / "site"), os.environ.get("PYTHONPATH", "")]
    more = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "JAX_COMPILATION_CACHE_DIR": str(options.cache / "jax"),
        "TORCHINDUCTOR_CACHE_DIR": str(options.cache / "inductor"),
        "TRITON_CACHE_DIR": str(options.cache / "triton"),
        # Peaks are those of the allocator, and nothing else needs the device.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_PLATFORMS": {"train_timm": "cpu", "tests": "cuda,cpu"}.get(line.kind, "cuda"),
        "JAXVISION_TEST_GPU": "1",
    }
    if options.rehearse:
        more |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "JAXVISION_TEST_GPU": "0"}
    return os.environ | more


def run(options):
    """Measures the lines that are missing, until the time is up."""
    deadline = time.monotonic() + options.budget
    options.out.mkdir(parents=True, exist_ok=True)
    results = Results(options.out, options.rehearse)
    part = options.part or "models"
    common = {"part": part, "time": time.strftime("%Y-%m-%d %H:%M")}
    text = machine(options.rehearse)
    results.add({"line": f"part {part}", "status": "ok", "seconds": 0, "text": text} | common)
    if options.wheels:
        install(options.wheels, options.cache / "site")
    for line in Plan(options).lines():
        wanted = options.only in line.name or line.kind == "rate"
        if not wanted or results.has(line.name, options.retry):
            continue
        record = {"line": line.name, **common, **line.about}
        start, left = time.monotonic(), deadline - time.monotonic()
        limit = min(line.limit, left)
        if options.rehearse and line.arguments.get("options", {}).get("attention") == "cudnn":
            found = {"status": "skipped", "error": "no GPU"}
        elif left < min(LEAST, options.budget / 2):
            found = {"status": "skipped", "error": f"the {options.budget:.0f} s were over"}
        else:
            found = measure(line, limit, environment_of(line, options), options.out)
            if found["status"] == "error" and limit < line.limit and time.monotonic() > deadline:
                found = {"status": "skipped", "error": f"{found['error']}; the time was over"}
        results.add(record | {"seconds": time.monotonic() - start} | found)


def machine(rehearsal):
    """Returns the GPU, its driver, and the versions."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    texts = ["CPU" if rehearsal else _said(query)]
    texts.append(f"{len(os.sched_getaffinity(0))} cores, Python {sys.version.split()[0]}")
    for package in PACKAGES.split():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            texts.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join([*texts, f"commit {_said(['git', 'rev-parse', '--short', 'HEAD'])}"])


def _said(command):
    try:
        return subprocess.run(
            command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def install(wheels, site):
    """Puts the wheels of a folder where the processes find them, without any index."""
    if site.exists():
        return
    options = "--quiet --no-index --no-deps --no-compile --no-cache-dir --target".split()
    found = sorted(map(str, wheels.glob("*.whl")))
    command = [sys.executable, "-m", "pip", "install", *options, str(site), *found]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        print(f"error: wheels of {wheels}: {ended.stderr.strip()}", file=sys.stderr)
        shutil.rmtree(site, ignore_errors=True)


def main():
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", type=int, choices=[1, 2, 3, 4])
    parser.add_argument("--models", type=lambda text: text.split(","), help="instead of a part")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/gpu")
    parser.add_argument("--cache", type=pathlib.Path, help="of compiled programs: OUT/cache")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds of the whole part")
    parser.add_argument("--wheels", type=pathlib.Path, help="folder of wheels that are missing")
    parser.add_argument("--zip", help="JPEGs for the input pipeline instead of drawn ones")
    parser.add_argument("--attention", choices=["auto", "fused", "cudnn", "reference"])
    parser.add_argument("--scan", type=_switch, help="true, false or auto")
    parser.add_argument("--remat", type=_switch, help="true, false or offload")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="timed in each turn")
    parser.add_argument("--only", default="", help="lines with this in their names")
    parser.add_argument("--retry", action="store_true", help="try failed lines again, too")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny models")
    options = parser.parse_args()
    if not options.part and not options.models:
        parser.error("--part=1 (to 4) or --models=vit_b16,... must be given")
    if not options.rehearse and not shutil.which("nvidia-smi"):
        parser.error("no GPU here (no nvidia-smi); --rehearse tries everything on a CPU")
    options.out = options.out.absolute()
    options.cache = (options.cache or options.out / "cache").absolute()
    run(options)


def _switch(text):
    return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or what it measures would outlive it
    main()
