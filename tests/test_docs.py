"""README.md and docs/ name only what exists: links, cards, commands, options, files, floors."""

import functools
import importlib
import inspect
import pathlib
import re
import shlex

import pytest
from test_floors import FLOORS

from configs import common
from jaxvision.__main__ import make_parser

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

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


@every_page
def test_python_blocks_are_python(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, page.name, "exec")


def test_files_of_the_map_exist():
    for path in re.findall(r"`([\w/]+(?:/|\.py))`", (ROOT / "docs/map.md").read_text()):
        assert (ROOT / path).exists() or (ROOT / "jaxvision" / path).exists(), path


def test_floors_of_the_map_are_those_enforced():
    rows = re.findall(r"^\| (-?\d) \| ([^|]*) \|", (ROOT / "docs/map.md").read_text(), re.MULTILINE)
    floors = {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert floors == FLOORS
