"""The wheel in an empty environment and an empty folder: each command that the README shows."""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv

import numpy as np
import PIL.Image
import pytest
from launching import CACHE, ROOT, options

README = re.findall(r"^jaxvision (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
# Small enough for seconds; the rest is as the README has it.
VIT = "{'width':16,'depth':2,'num_heads':2,'patch_size':16}"
RUN = [CACHE, *options(total_steps=2, batch_size=4, eval_batch_size=4, data__shapes__num_eval=8)]
RUN += options(data__image_size=32, data__shapes__num_train=64)
SMALL_VIT = options(model__name="vit_ti16", model__kwargs=VIT)
CAPTIONER = (
    "{'encoder':'vit_ti16','encoder_options':" + VIT + ",'width':16,'depth':1,'num_heads':2}"
)
SMALL = {
    "recommended:folder": [*SMALL_VIT, *options(model__dtype="float32")],
    "vit_b16": SMALL_VIT,
    "transfer_resnet50": options(model__name="resnet18", model__kwargs="{}"),
    "caption_shapes": options(model__kwargs=CAPTIONER),
}
FAST = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
NEEDS_DATA = {"vit_b16:imagenet2012", "cifar10_fast"}
LONG = {"vit_b16", "transfer_resnet50", "caption_shapes"}


def photo(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """Returns a function that runs a command as in a new environment, in an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(wheel, cwd=ROOT, check=True, capture_output=True)
    environment, empty = folder / "environment", folder / "empty"
    venv.create(environment, symlinks=True)
    python = environment / "bin/python"
    install = ["install", "--quiet", "--no-deps", "--no-index", *map(str, folder.glob("*.whl"))]
    subprocess.run([sys.executable, "-m", "pip", f"--python={python}", *install], check=True)
    # What it depends on is that of the tests; what such a folder links to, as us, is not.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    empty.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "PYTHON"))}

    def run(line, *more, program=("jaxvision",), environ=None):
        words = [str(environment / "bin" / program[0]), *program[1:], *shlex.split(line), *more]
        done = subprocess.run(
            words,
            cwd=empty,
            env=kept | FAST | (environ or {}),
            capture_output=True,
            text=True,
            timeout=240,
        )
        return done.returncode, done.stdout, done.stderr

    where = "import jaxvision; print(jaxvision.__file__)"
    code, out, err = run("", where, program=("python", "-c"))
    assert out.strip() == str(site / "jaxvision/__init__.py"), err
    run.folder = empty
    return run


@pytest.fixture(scope="module")
def trained(typed):
    """The folder of the README's own run, on photos of two classes."""
    for i in range(8):
        split, kind = ("train", "test")[i % 2], ("cat", "dog")[i // 4]
        photo(typed.folder / f"data/images/{split}/{kind}/{i}.jpg", i)
    (line,) = (line for line in README if "recommended:folder" in line)
    code, out, err = typed(line, *RUN, *SMALL["recommended:folder"])
    assert code == 0 and (typed.folder / "runs/mine/metrics.jsonl").exists(), err
    return line


def test_a_run_on_own_images(typed, trained):
    (line,) = (line for line in README if line.startswith("train ... "))
    words = shlex.split(line, comments=True)[2:]
    code, out, err = typed(trained, *words, *RUN, *SMALL["recommended:folder"])
    assert code == 0 and "eval/accuracy" in err, err


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_a_run_is_used(typed, trained, command):
    (line,) = (line for line in README if line.startswith(command))
    photo(typed.folder / "photos/a.jpg", 8)
    photo(typed.folder / "dog.jpg", 9)
    words = shlex.split(line, comments=True)
    code, out, err = typed("", *words)
    assert code == 0 and "a.jpg" in out, err


def cards():
    for line in README:
        if found := re.match(r"train --config=([\w:]+)", line):
            card = found[1]
            if card not in NEEDS_DATA | {"recommended:folder"}:
                marks = [pytest.mark.repeats] if card in LONG else []
                yield pytest.param(line, card, id=card, marks=marks)


@pytest.mark.parametrize(("line", "card"), [*cards()])
def test_cards_are_found(typed, line, card):
    words = shlex.split(line, comments=True)
    code, out, err = typed("", *words, *RUN, *SMALL[card])
    assert code == 0 and "step 2/2" in err, err


def test_a_card_of_ones_own(typed):
    code, card, err = typed("configs smoke")
    assert code == 0 and "from configs import common" in card, err
    (typed.folder / "mine.py").write_text(card)
    code, out, err = typed("train --config=mine.py --workdir=runs/own --help")
    assert code == 0 and "--config.batch_size=16 " in out, err
    assert out.splitlines()[-2].startswith("For example: jaxvision train --config=")
    code, out, err = typed("train --config=smok --workdir=runs/own", program=PYTHON_M)
    assert code == 2 and "did you mean smoke?" in err and "See `python -m jaxvision train" in err
    code, out, err = typed("train --config=configs/smoke.py --workdir=runs/own")
    assert code == 2 and "comes with jaxvision is --config=smoke." in err
    assert not (typed.folder / "runs/own").exists()


PYTHON_M = ("python", "-m", "jaxvision")


@pytest.mark.parametrize("program", [("jaxvision",), PYTHON_M])
def test_it_says_how_it_was_called(typed, program):
    code, out, err = typed("--version", program=program)
    assert code == 0 and re.fullmatch(r"jaxvision [\d.]+\n", out), err
    name = " ".join(program)
    code, out, _ = typed("predict --help", program=program)
    assert code == 0 and out.startswith(f"usage: {name} predict ")
    assert out.splitlines()[-1].startswith(f"For example: {name} predict ")


def test_lists(typed):
    code, out, err = typed("configs")
    names = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"common"}
    assert code == 0 and {line.split()[0] for line in out.splitlines()} == names
    assert "models" in README or any(line.startswith("configs") for line in README)
    code, out, err = typed("models resnet18")
    assert code == 0 and "11,689,512" in out, err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("jaxvision pre", {"predict"}),
        ("jaxvision train --config=vit_", {"vit_b16", "vit_cifar10"}),
        ("jaxvision train --config.optimizer.clip_", {"--config.optimizer.clip_norm"}),
        ("jaxvision train --mode=pre", {"preflight"}),
    ],
)
def test_the_shell_completes(typed, line, expected):
    answer = typed.folder.parent / "answer"
    question = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \n\"'><=;|&(:",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
    }
    typed("", environ=question)
    assert expected <= {word.strip() for word in re.split("[\v\n]", answer.read_text())}
