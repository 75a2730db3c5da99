"""benchmarks/gpu.py: what dies or hangs on a rented GPU costs one line, and no line is lost."""

import json
import sys

import jax
import pytest

from benchmarks import gpu

MEASUREMENT = """
import json, os, pathlib, sys, time

kind, arguments, result = sys.argv[1:]
print("begins", flush=True)
if kind == "hangs":
    time.sleep(60)
if kind == "aborts":
    os.abort()
if kind == "raises":
    raise RuntimeError("no kernel image")
step = {"images_per_second": 10.0, "macs": 10**9, "peak_bytes": 0, "compile_seconds": 1}
found = {"rate": {"flops": 1e12}, "train": step}
pathlib.Path(result).write_text(json.dumps(found[kind]))
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Runs gpu.py over lines of MEASUREMENT; returns the records that this adds."""
    script = tmp_path / "measurement.py"
    script.write_text(MEASUREMENT)
    monkeypatch.setattr(gpu, "SCRIPT", script)
    about = {"model": "vit", "batch": 2}
    lines = [
        gpu.Line("rate of bfloat16 products", "rate", {}, 20.0),
        gpu.Line("hangs", "hangs", {}, 0.3),
        gpu.Line("aborts", "aborts", {}, 20.0),
        gpu.Line("raises", "raises", {}, 20.0),
        gpu.Line("theirs", "train", {}, 20.0, about | {"system": "timm"}),
        gpu.Line("ours", "train", {}, 20.0, about | {"system": "jaxvision"}),
    ]
    monkeypatch.setattr(gpu.Plan, "lines", lambda self: lines)
    path = tmp_path / "out/results.jsonl"

    def call(*arguments):
        before = len(path.read_text().splitlines()) if path.exists() else 0
        arguments = ["gpu.py", "--part=1", "--rehearse", f"--out={tmp_path}/out", *arguments]
        monkeypatch.setattr(sys, "argv", arguments)
        gpu.main()
        records = [json.loads(line) for line in path.read_text().splitlines()[before:]]
        return {record["line"]: record for record in records if "text" not in record}

    return call


def test_a_line_that_ends_badly_is_a_record_and_the_rest_goes_on(call, tmp_path):
    skipped = call("--budget=0")
    assert len(skipped) == 6 and {x["status"] for x in skipped.values()} == {"skipped"}
    found = call()
    assert found["hangs"]["error"] == "stopped after 0 s; last words: begins"
    assert found["aborts"]["error"] == "SIGABRT: begins"
    assert found["raises"]["error"] == "exit code 1: RuntimeError: no kernel image"
    assert found["ours"]["mfu"] == pytest.approx(10 * 1e9 * 6 / 1e12)
    assert found["ours"]["mfu_of_989"] == pytest.approx(10 * 1e9 * 6 / 989e12)
    text = (tmp_path / "out/results.md").read_text()
    assert "| vit | jaxvision | 2 | 10 (10-10) | 1.00x | 6.0% |" in text
    assert "| 1 | aborts | error: SIGABRT: begins |" in text
    assert call() == {}
    assert list(call("--retry", "--only=s")) == ["hangs", "aborts", "raises"]


def test_a_rehearsal_on_the_cpu(tmp_path, monkeypatch):
    only = "scan=False, batch 2, turn 1"  # with fused and with cuDNN's attention
    cache = f"--cache={jax.config.jax_compilation_cache_dir}/gpu"
    arguments = ["--part=1", "--rehearse", f"--out={tmp_path}", cache, f"--only={only}"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    gpu.main()
    _, rate, cudnn, fused = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert rate["flops"] > 0
    assert cudnn["status"] == "skipped" and cudnn["error"] == "no GPU"
    assert fused["status"] == "ok" and fused["images_per_second"] > 0
    assert fused["planned_bytes"] > 0 and 5 < fused["loss"] < 9
