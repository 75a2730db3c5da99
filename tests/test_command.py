"""`jaxvision`, as a user types it: what it prints, and how it ends on wrong input.

`python -m pytest tests/test_command.py -s --no-header -q` prints the sentences.
"""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable

import bad_files
import finished_run
import numpy as np
import PIL.Image
import pytest
from bad_files import text
from flax import nnx
from launching import ROOT

import jaxvision as jv
from jaxvision.interop.assign import extract_weights
from jaxvision.interop.formats import read_weights

ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))} | {
    "JAX_PLATFORMS": "cpu"
}
# One process serves all: to start Python and import jax takes seconds.
SERVER = """
import contextlib, io, json, sys, traceback
from jaxvision.__main__ import main
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(json.loads(line))
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 1
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """Returns a function from arguments to (exit code, stdout, stderr)."""
    log = tmp_path_factory.mktemp("server") / "log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        requests, answers = process.stdin, process.stdout
        assert requests and answers

        def run(*arguments):
            print(json.dumps([str(x) for x in arguments]), file=requests, flush=True)
            return json.loads(answers.readline())

        yield run
        requests.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    finished_run.write(folder)
    return folder


def photo(path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)


def test_models(serve):
    code, out, err = serve("models", "vit_b*", "resnet50", "--json")
    cards = {card["name"]: card for card in json.loads(out)}
    assert code == 0 and not err and {"vit_b16", "vit_b32", "resnet50"} <= set(cards)
    spec, card = jv.get_spec("resnet50"), cards["resnet50"]
    assert card["parameters"] == spec.num_params and card["peers"] == spec.peers
    assert round(card["macs"] / 1e9, 3) == 4.089
    code, table, _ = serve("models", "resnet18")
    header, row = table.splitlines()
    assert header.split()[:4] == ["model", "parameters", "GMACs", "Mactivations"]
    assert row.split()[:5] == ["resnet18", "11,689,512", "1.814", "2.48", "224"]


def test_profile(serve):
    code, out, _ = serve("profile", "resnet18", "--image-size=32x64", "--batch=1,2", "--depth=1")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("resnet18, one image of 32 x 64 (a MAC is one multiply-add")
    assert any(line.startswith("  head Linear") for line in lines)
    rows = [line.split() for line in lines if line.startswith("resnet18  ")]
    assert [row[3:5] for row in rows] == [["71.5", "1"], ["71.5", "2"]]


def test_predict(serve, finished, tmp_path):
    photo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    code, out, err = serve("predict", tmp_path, "--weights", finished, "--top=2", "--json")
    good, bad = map(json.loads, out.splitlines())
    assert code == 2 and good["image"] == f"{tmp_path}/a.png" and len(good["guesses"]) == 2
    names = (finished / "classes.txt").read_text().splitlines()
    assert all(guess["name"] == names[guess["index"]] for guess in good["guesses"])
    assert bad["image"] == f"{tmp_path}/b.png" and not bad["guesses"]
    assert err == f"error: {bad['error']}\n"

    code, out, err = serve("predict", tmp_path / "a.png", "--weights", finished, "--csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert code == 0 and not err and len(rows) == 5 and rows[1]["rank"] == "2"
    code, out, _ = serve("predict", tmp_path / "a.png", "--weights", finished, "--top=1")
    assert code == 0 and out.startswith(f"{tmp_path}/a.png: 0.") and out.count("\n") == 1


def test_explain(serve, finished, tmp_path):
    for place in (tmp_path / "a.png", tmp_path / "more" / "a.png"):
        place.parent.mkdir(exist_ok=True)
        photo(place)
    code, out, err = serve(
        "explain", tmp_path, "--run", finished, "--method=gradcam,attention", "--target=1,0",
        f"--out={tmp_path}/maps", "--json",
    )  # fmt: skip
    assert code == 0 and not err and out.count("\n") == 2, (out, err)
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    kinds = "-heads.png", ".json", ".png"
    assert names == sorted(f"a{number}{kind}" for number in ("", "-2") for kind in kinds)
    told = json.loads((tmp_path / "maps" / "a.json").read_text())
    assert told["targets"] == [1, 0] and set(told["maps"]) == {"gradcam", "attention"}
    maps = {name: np.array(each) for name, each in told["maps"].items()}
    assert maps["gradcam"].shape == maps["attention"].shape == (2, 4, 4)
    assert np.shape(told["heads"]) == (2, 2, 4, 4)
    assert all(np.isfinite(each).all() for each in maps.values())
    assert PIL.Image.open(tmp_path / "maps" / "a.png").size[0] > 700


def test_convert(serve, finished, tmp_path):
    code, out, _ = serve("convert", finished, tmp_path / "timm.safetensors", "--format=timm")
    assert code == 0 and "averaged weights of step 3" in out
    own = tmp_path / "own.npz"
    code, out, _ = serve("convert", finished, own, "--format=jaxvision")
    assert code == 0 and out.endswith(f"wrote {own} with the names of jaxvision\n")
    options = {**finished_run.VIT, "image_size": 32, "num_classes": 8}
    models = [jv.create_model("vit_ti16", rngs=nnx.Rngs(0), **options) for _ in range(2)]
    jv.load_weights(models[0], finished)
    jv.load_weights(models[1], tmp_path / "timm.safetensors")
    first, second, third = (
        extract_weights(models[0], format="jaxvision"),
        extract_weights(models[1], format="jaxvision"),
        read_weights(own),
    )
    assert set(first) == set(second) == set(third)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
        np.testing.assert_array_equal(array, third[name])


def test_parity(serve):
    pytest.importorskip("torch")
    arguments = ("parity", "resnet18", "--against=torchvision", "--image-size=64")
    code, out, err = serve(*arguments, "--dtype=float32")
    assert code == 0, out + err
    assert "layer1.0.conv1" in out and "They agree" in out.splitlines()[-2]


@dataclasses.dataclass
class Row:
    """One wrong input: its name, the arguments, and what the sentence must say."""

    id: str
    arguments: str
    expected: list[str]
    write: bad_files.Write = lambda folder: None

    def check(self, run: Callable, tmp, finished) -> None:
        self.write(tmp)
        before = bad_files.contents(tmp)
        places = {"{tmp}": str(tmp), "{run}": str(finished)}

        def filled(line):
            for name, place in places.items():
                line = line.replace(name, place)
            return line

        code, out, err = run(*map(filled, self.arguments.split()))
        assert code == 2 and "Traceback" not in err and not out, err
        (message,) = err.splitlines()
        print(f"\n{self.id}: {message}".replace(str(tmp), "/tmp"))
        assert message.startswith("error: ") and message.endswith((".", "?"))
        assert [x for x in map(filled, self.expected) if x not in message] == []
        assert bad_files.contents(tmp) == before


HELP = "--help"
EXPLAIN = "explain {tmp}/a.png --weights={run} --out={tmp}/maps"


def photo_of(folder):
    photo(folder / "a.png")


PREDICT = "predict {tmp}/a.png --weights={run}"


def unknown_weights(folder):
    np.savez(folder / "w.npz", x=np.ones(3))


ROWS = [
    Row("no-command", "", ["COMMAND", HELP]),
    Row("command", "modles", ["'modles'", "'models'", HELP]),
    Row("option", "models --jsn", ["--jsn", HELP]),
    Row("card", "configs smok", ["no recipe card 'smok'", "did you mean smoke?"]),
    Row("card-elsewhere", "configs no/smoke.py", ["no file no/smoke.py"]),
    Row("report-nothing", "report", ["RUN", HELP]),
    Row("report-no-run", "report {tmp}", ["{tmp} is not the folder of a run", "config.json"]),
    Row("report-suffix", "report {run} --output={tmp}/a.pdf", ["ends with .html", "a.pdf"]),
    Row("report-many", f"report {'x ' * 9}", ["A report is of 1 to 8 runs, got 9"]),
    Row("pattern", "models zzz*", ["No model matches 'zzz*'", "jaxvision models"]),
    Row("name", "models resnet5", ["no model 'resnet5'", "resnet50"]),
    Row("profile-name", "profile resnet5", ["no model 'resnet5'", "resnet50"]),
    Row("profile-size", "profile vit_b16 --image-size=100", ["100 x 100 pixels", "patches of 16"]),
    Row("size", "profile vit_b16 --image-size=224,224", ["288x224", "'224,224'", HELP]),
    Row("batch", "profile vit_b16 --batch=0", ["at least 1", "'0'", HELP]),
    Row("parity-nothing", "parity", ["name of a model, or --all"]),
    Row("parity-both", "parity resnet18 --all", ["name of a model, or --all"]),
    Row("parity-name", "parity resnet5", ["no model 'resnet5'", "resnet50"]),
    Row("parity-library", "parity resnet18 --against=keras", ["'keras'", "torchvision", HELP]),
    Row("parity-peer", "parity vit_s16 --against=torchvision", ["vit_s16 has a peer in timm"]),
    Row("convert-format", "convert {run} {tmp}/o.npz", ["--format", HELP]),
    Row("convert-suffix", "convert {run} {tmp}/o.pth --format=timm", [".safetensors or .npz"]),
    Row("convert-in", "convert {tmp}/no.npz {tmp}/o.npz --format=timm --model=resnet18",
        ["There is no run and no file of weights {tmp}/no.npz"]),
    Row("convert-model", "convert {tmp}/w.npz {tmp}/o.npz --format=timm",
        ["{tmp}/w.npz does not say which model", "--model=NAME"], unknown_weights),
    Row("convert-damaged", "convert {tmp}/w.npz {tmp}/o.npz --format=timm --model=resnet18",
        ["{tmp}/w.npz is empty instead of a file of weights"], text("w.npz", "")),
    Row("convert-no-run", "convert {tmp} {tmp}/o.npz --format=timm", ["config.json and checkp"]),
    Row("convert-library", "convert {run} {tmp}/o.npz --format=hf --model=resnet18",
        ["is a run of vit_ti16, not of resnet18"]),
    Row("convert-peft", "convert {run} {tmp}/a --format=peft", ["preset=full, which has"]),
    Row("convert-peft-adapter", "convert {run} {tmp}/a --format=peft --adapter={tmp}",
        ["leave --adapter out"]),
    Row("convert-peft-part", "convert {run} {tmp}/a --format=peft --part=teacher",
        ["leave --part out"]),
    Row("convert-adapter", "convert {run} {tmp}/o.npz --format=timm --adapter={tmp}",
        ["{tmp} is no folder of an adapter", "--format=peft"]),
    Row("predict-weights", "predict {run}/x.png", ["no image, folder or zip"]),
    Row("predict-no-weights", "predict {tmp}", ["Give --weights=TAG, FILE or RUN"],
        text("a.png", "")),
    Row("predict-nothing", "predict {tmp} --weights={run}", ["{tmp} holds no image", ".png"]),
    Row("predict-missing", PREDICT, ["no image, folder or zip {tmp}/a.png"]),
    Row("predict-top", f"{PREDICT} --top=many", ["'many'", HELP]),
    Row("predict-form", f"{PREDICT} --json --csv", ["--csv", "--json", HELP]),
    Row("predict-corrupt", PREDICT, ["{tmp}/a.png cannot be used", "none of the formats JPEG, PNG"],
        text("a.png", "no image")),
    Row("predict-classes", f"{PREDICT} --classes={{tmp}}/names.txt",
        ["There is no file of class names {tmp}/names.txt"], text("a.png", "")),
    Row("explain-weights", "explain {tmp}", ["Give --weights=TAG, FILE or RUN"], text("a.png", "")),
    Row("explain-method", f"{EXPLAIN} --method=gradcam,lime", ["no method lime: take gradcam, "],
        text("a.png", "")),
    Row("explain-method-empty", f"{EXPLAIN} --method=", ["no method", "take gradcam, "],
        text("a.png", "")),
    Row("explain-target", f"{EXPLAIN} --target=0,99", ["no class 99: the model has classes 0 to 7"],
        text("a.png", "")),
    Row("explain-target-name", f"{EXPLAIN} --target=zebra", ["no class called zebra"],
        text("a.png", "")),
    Row("explain-target-empty", f"{EXPLAIN} --target=", ["no class called"], text("a.png", "")),
    Row("explain-stage", f"{EXPLAIN} --stage=9", ["The model has 2 stages, numbered 0"], photo_of),
    Row("explain-stage-word", f"{EXPLAIN} --stage=last", ["'last'", HELP]),
    Row("explain-corrupt", EXPLAIN, ["{tmp}/a.png cannot be used"], text("a.png", "no image")),
    Row("explain-out", "explain {tmp}/a.png --weights={run} --out=gs://bucket/x", ["is a URL"],
        text("a.png", "")),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_ends_with_code_2_and_one_sentence(row, serve, finished, tmp_path):
    if row.id in ("parity-name", "parity-peer"):
        pytest.importorskip("torch")
    row.check(serve, tmp_path, finished)


def test_the_same_in_a_process_of_its_own():
    def run(*arguments):
        result = subprocess.run(
            [sys.executable, "-m", "jaxvision", *arguments],
            cwd=ROOT,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return result.returncode, result.stdout, result.stderr

    code, out, err = run("models", "resnet5")
    assert code == 2 and not out and err.count("\n") == 1, err
    code, out, _ = run("--help")
    assert code == 0 and all(name in out for name in ("models", "profile", "parity", "predict"))


def test_help_needs_nothing_heavy():
    code = (
        "import sys, jaxvision.__main__ as m\n"
        "try: m.main(['predict', '--help'])\n"
        "except SystemExit: print({'jax', 'torch', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.endswith("set()\n")
