"""README.md and docs/ name only what exists: links, cards, commands, options, files, floors.

Their Python runs. Their commands are read with all options, but nothing is begun.
"""

import functools
import importlib
import inspect
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import finished_run
import numpy as np
import PIL.Image
import pytest
from test_floors import FLOORS

import jaxvision as jv
from configs import common
from jaxvision.__main__ import make_parser

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("*.md")),
]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)


def text(page):
    return page.read_text().replace("\\\n", " ")  # one line for a command that goes on


def anchors(page):
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@functools.cache
def schema():
    """Returns every option and every group of options, with dots."""

    def names(config, prefix=""):
        for key, value in config.items():
            yield f"{prefix}{key}"
            if hasattr(value, "items"):
                yield from names(value, f"{prefix}{key}.")

    return frozenset(names(common.get_config()))


@every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", text(page)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@every_page
def test_lines_are_short(page):
    assert max(map(len, page.read_text().splitlines())) < 200


@every_page
def test_recipe_cards_exist(page):
    for name, argument in re.findall(r"configs/(\w+)\.py(?::(\w+))?", text(page)):
        if name != "common":
            module = importlib.import_module(f"configs.{name}")
            module.get_config(*filter(None, [argument]))  # refuses an unknown argument


@every_page
def test_recipe_cards_are_found_by_name(page):
    for name, argument in re.findall(r"train --config=(\w+)(?::(\w+))?(?![\w./])", text(page)):
        module = importlib.import_module(f"configs.{name}")
        module.get_config(*filter(None, [argument]))


def test_every_card_and_choice_is_in_the_table():
    table = (ROOT / "docs/recipes.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", table, re.MULTILINE))
    for card in {p.stem for p in (ROOT / "configs").glob("*.py")} - {"common"}:
        get_config = importlib.import_module(f"configs.{card}").get_config
        choices = []
        if inspect.signature(get_config).parameters:
            with pytest.raises(ValueError) as refused:
                get_config("none")
            _, _, listed = str(refused.value).partition("; choose ")
            choices = re.split(r", | or ", listed.rstrip("."))
        assert re.findall(r"`(\w+)`", rows[card]) == choices, card


@every_page
def test_options_exist(page):
    # A class has a config of its own.
    code = re.findall(r"```python\n.*?```", text(page), re.DOTALL)
    prose = functools.reduce(
        lambda rest, block: rest.replace(block, ""),
        (b for b in code if "\nclass " in b),
        text(page),
    )
    found = re.findall(r"(?<![\w/])config\.((?:[a-z_0-9]+\.)*[a-z_0-9]+)", prose)
    options = {o for o in found if o not in ("json", "optmizer.name")}  # a file; a typo it explains
    unknown = {o for o in options - schema() if not o.startswith("model.kwargs.")}
    assert not unknown, sorted(unknown)


@pytest.mark.parametrize("name", ["tiny_mixer", "ordered_task"])
def test_the_examples_are_those_that_run(name):
    source = (ROOT / "tests/extension" / f"{name}.py").read_text()
    assert source.split('"""\n\n', 1)[1].strip() in (ROOT / "docs/extending.md").read_text()


@every_page
def test_commands_are_understood(page):
    for line in re.findall(r"^(?:python -m )?jaxvision (.*)$", text(page), re.MULTILINE):
        words = shlex.split(line, comments=True)
        if words[0] != "train":  # whose options have tests of their own
            make_parser().parse_args(words)
    for command in re.findall(r"`(?:python -m )?jaxvision (\w+)", text(page)):
        assert (ROOT / f"jaxvision/commands/{command}.py").exists(), command


def shell_lines(path):
    """Returns the lines that a page or a notebook gives to the shell, and lines of text."""
    if path.suffix == ".md":
        blocks = re.findall(r"^```\n(.*?)^```", text(path), re.DOTALL | re.MULTILINE)
    else:
        sources = ["".join(cell["source"]) for cell in cells(path)]
        blocks = [source.replace("\\\n", " ") for source in sources if source[:6] == "%%bash"]
    return [line for block in blocks for line in block.splitlines()]


def cells(notebook):
    return [cell for cell in json.loads(notebook.read_text())["cells"] if "outputs" in cell]


# A process of its own, as absl's flags are one for a process, and a fork for each command.
READ_COMMANDS = """
import json, os, sys
from jaxvision.commands import train
from jaxvision.options.options import read_options
train.make_importable()
for words in json.load(sys.stdin):
    if (child := os.fork()) == 0:
        try:
            train._parse(["jaxvision train", *words])
            read_options(train._CONFIG.value)
        except BaseException as error:
            print(*words, repr(error), sep="\\n  ", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_training_commands_are_read():
    commands = []
    for path in [*PAGES, *NOTEBOOKS]:
        for line in shell_lines(path):
            _, found, options = line.partition("jaxvision train ")
            if not found:
                _, found, options = line.partition("launch.py ")
            if found and not line.startswith(("$", "error: ")) and options[:3] != "...":
                options = options.partition("2>&1")[0]
                commands.append(shlex.split(options, comments=True))
    assert len(commands) > 30
    ended = subprocess.run(
        [sys.executable, "-c", READ_COMMANDS],
        input=json.dumps(commands),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/extension'}"},
        text=True,
        capture_output=True,
    )
    assert not ended.stdout and not ended.stderr and not ended.returncode


def test_the_refused_command_is_refused_as_the_page_says():
    page = (ROOT / "docs/recipes.md").read_text()
    ((command, answer),) = re.findall(r"^\$ jaxvision (.*)\n(.*)$", page, re.MULTILINE)
    words = [sys.executable, "-m", "jaxvision", *shlex.split(command)]
    ended = subprocess.run(words, cwd=ROOT, text=True, capture_output=True)
    said = ended.stderr.replace("python -m jaxvision", "jaxvision")
    assert (ended.returncode, said) == (2, f"{answer}\n")


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda p: p.name)
def test_other_commands_are_there(path):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = path.read_text()
    for target in re.findall(r"(?:^|`)make ([a-z][\w-]*)", named, re.MULTILINE):
        assert target in targets, target
    for found in re.findall(r"(?:\.|jaxvision-nnx)\[([\w,-]+)\]'", named):
        assert set(found.split(",")) <= set(extras["optional-dependencies"]), found
    for script in re.findall(r"python (?:-m pytest )?((?:tests|benchmarks)/[\w/]+\.py)", named):
        assert (ROOT / script).exists(), script


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_python_and_hold_no_outputs(notebook):
    """They are executed by `make docs`."""
    for cell in cells(notebook):
        source = "".join(cell["source"])
        assert not cell["outputs"] and cell["execution_count"] is None
        if source[:2] != "%%":
            compile(source, notebook.name, "exec")
    for line in shell_lines(notebook):
        words = shlex.split(line.partition("2>&1")[0], comments=True)
        if words[:1] == ["jaxvision"] and words[1] != "train":
            make_parser().parse_args(words[1:])


def python_blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


SMALL = {
    "resnet50": {"stage_depths": (1,), "stage_widths": (4,), "stem_width": 4},
    "clip_vit_b32": {
        **{"width": 8, "depth": 1, "num_heads": 2, "embed_width": 8, "image_size": 32},
        "encoder_options": {"width": 8, "depth": 1, "num_heads": 2, "patch_size": 8},
    },
    "vit_b16": {"width": 8, "num_heads": 2, "image_size": 32},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs") / "mine"
    finished_run.write(folder)
    return folder


@pytest.mark.parametrize("page", [p for p in PAGES if python_blocks(p)], ids=lambda p: p.name)
def test_python_of_the_pages_runs(page, run, tmp_path, monkeypatch):
    """With small models and random weights in the place of published ones."""
    create_model, from_pretrained = jv.create_model, jv.from_pretrained

    def small(name, *, pretrained=False, **options):
        assert pretrained in (True, False) or f"{name}.{pretrained}" in jv.list_weights(name)
        model = create_model(name, **(SMALL[name] | options))
        model.preprocess = jv.get_spec(name).preprocess if pretrained else None
        return model

    def run_of(tag):
        assert tag == "runs/mine" or tag in jv.list_weights()
        return from_pretrained(run)

    monkeypatch.setattr(jv, "create_model", small)
    monkeypatch.setattr(jv, "from_pretrained", run_of)
    monkeypatch.setattr(jv, "cache_compilation", lambda: None)
    wanted_size = "jaxvision.evaluation.from_pretrained.wanted_size"
    monkeypatch.setattr(wanted_size, lambda model, spec: 32)
    monkeypatch.chdir(tmp_path)
    for name in ("photo", "dog", "cat"):
        noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
        PIL.Image.fromarray(noise).save(f"{name}.jpg")
    jv.save_weights(small("resnet50"), "resnet50.safetensors")
    os.rename("resnet50.safetensors", "resnet50.pth")  # its content says what it is
    names = {}
    for block in python_blocks(page):
        if "\nclass " not in block:  # see test_the_examples_are_those_that_run
            exec(compile(block, page.name, "exec"), names)
    if page.name == "extending.md":
        assert names["get_config"]().data.path == "data/flowers"


def test_the_reference_has_every_public_name():
    page = (ROOT / "docs/api.md").read_text()
    paths = re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE)
    for path in paths:
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name).__doc__, path
    public = {*jv.__all__, *jv.explain.__all__} - {"__version__", "explain"}
    assert public <= {path.rpartition(".")[2] for path in paths}


def test_files_of_the_map_exist():
    for path in re.findall(r"`([\w/]+(?:/|\.py))`", (ROOT / "docs/map.md").read_text()):
        assert (ROOT / path).exists() or (ROOT / "jaxvision" / path).exists(), path


def test_floors_of_the_map_are_those_enforced():
    rows = re.findall(r"^\| (-?\d) \| ([^|]*) \|", (ROOT / "docs/map.md").read_text(), re.MULTILINE)
    floors = {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert floors == FLOORS
