"""No marker without a make target that runs its tests."""

import pathlib
import re
import shlex
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
OPTIONS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
MARKERS = [line.partition(":")[0] for line in OPTIONS["markers"]]


def selection(command):
    words = shlex.split(command)
    return words[words.index("-m") + 1]


def targets():
    """Returns, by target of the Makefile, (does it set float64, what -m selects)."""
    found = {}
    for target, recipe in re.findall(
        r"^([\w-]+):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M
    ):
        for line in recipe.splitlines():
            double, _, options = line.partition("-m pytest")
            if options:
                chosen = selection(options if " -m " in options else OPTIONS["addopts"])
                found[target] = ("JAX_ENABLE_X64=1" in double, chosen)
    return found


def runs(expression, *markers):
    return eval(expression, {}, {name: name in markers for name in MARKERS})


@pytest.mark.parametrize("marker", MARKERS)
def test_each_marker_is_run_by_a_target(marker):
    markers = {marker} | ({"float64"} if marker == "quick" else set())
    by = [
        t
        for t, (double, m) in targets().items()
        if runs(m, *markers) and double >= ("float64" in markers)
    ]
    assert by, f"no target of the Makefile runs a test that is only marked {marker}"


def test_what_the_targets_leave_out():
    chosen = {target: expression for target, (_, expression) in targets().items()}
    assert runs(chosen["test"]) and runs(chosen["test-all"])
    assert not runs(chosen["test"], "slow") and not runs(chosen["test-all"], "slow")
    assert not runs(chosen["test"], "repeats") and runs(chosen["test-all"], "repeats")
    assert runs(chosen["parity"], "float64", "quick") and not runs(chosen["parity"])
    ci = (ROOT / ".ci/run").read_text()
    assert all(f"make {target}\n" in ci for target in ("check", "test", "parity-quick"))
