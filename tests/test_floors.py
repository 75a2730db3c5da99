"""Enforces who may import whom (the README's map of the code)."""

import ast
import pathlib
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FLOORS = {
    "errors": -2,  # under every floor
    "command_line": -1,
    "target_platform": -1,
    "cards": 0,
    "files": 0,
    "compile_cache": 0,
    "terminal": 0,
    "outside": 0,
    "plain_pickle": 0,
    "options": 0,
    "batch": 0,
    "layers": 0,
    "models": 1,
    "metrics": 1,
    "data": 1,
    "decode": 1,
    "plots": 1,
    "explain": 2,
    "interop": 2,
    "tasks": 3,
    "train": 4,
    # What looks at runs stands above train.
    "evaluation": 5,
    "profiling": 5,
    "parity": 6,
    "preflight": 6,
    "serving": 6,
    "report": 7,
    "commands": 8,
    "__main__": 9,
}
PEERS = {"torch", "torchvision", "timm", "transformers", "sklearn", "torchmetrics", "peft"}
PACKAGE = sorted((ROOT / "jaxvision").rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def imports(path: pathlib.Path) -> set[str]:
    """Returns the dotted names that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "jaxvision" and len(parts) > 1 else None


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_lower_floors(path):
    here = path.relative_to(ROOT / "jaxvision").parts[0].removesuffix(".py")
    if here == "__init__":
        return
    for name in imports(path):
        there = room(name)
        if there is None or there == here or there.startswith("__version"):
            continue
        assert FLOORS[there] < FLOORS[here], (
            f"{path.relative_to(ROOT)} on floor {FLOORS[here]} imports {name} on {FLOORS[there]}"
        )


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_forbidden_imports(path):
    tops = {name.split(".")[0] for name in imports(path)}
    assert "tensorflow" not in tops
    assert path.parent.name == "parity" or not tops & PEERS, "only parity/ may know PyTorch"
    if {"data", "options"} & set(path.relative_to(ROOT).parts):
        assert not tops & {"jax", "flax"}, "workers must not start a backend"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_configs_are_plain(path):
    assert {name.split(".")[0] for name in imports(path)} <= {"ml_collections", "configs"}


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_defaults_live_in_the_schema(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "get" and "config" in ast.unparse(node.func.value):
                raise AssertionError(f"{path}:{node.lineno}: config.get hides a default")


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_print_and_no_large_files(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno}: use logging"


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_pictures_and_texts_are_written_whole_or_not_at_all(path):
    if path.name != "files.py":
        source = path.read_text()
        assert ".savefig(" not in source and ".write_text(" not in source, "use jaxvision/files.py"


def test_every_room_is_on_a_floor():
    rooms = {p.relative_to(ROOT / "jaxvision").parts[0].removesuffix(".py") for p in PACKAGE}
    assert rooms - {"__init__"} <= set(FLOORS)


def test_version_is_the_packages():
    import jaxvision

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"]["path"] == "jaxvision/__init__.py"
    assert jaxvision.__version__.count(".") == 2
