"""Recipe cards: the Python files of `configs/`, beside the package or, installed, inside of it."""

import difflib
import importlib.util
import pathlib
import re
import sys
import types
from typing import Any

from jaxvision.errors import InputError

SCHEMA = "common"  # the file of the folder that is no card


def cards_folder() -> pathlib.Path:
    """Returns the folder of the recipe cards."""
    package = pathlib.Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def list_cards() -> list[str]:
    """Returns the names of the recipe cards."""
    return sorted(path.stem for path in cards_folder().glob("*.py") if path.stem != SCHEMA)


def find_card(card: str) -> str:
    """Returns the path of a recipe card, with what stands behind its colon.

    Args:
      card: Name or path of a card, as in `vit_b16`, `vit_b16:imagenet2012` or `mine.py`.

    Raises:
      InputError: if it is the name of no card.
    """
    name, colon, choice = card.partition(":")
    if not re.fullmatch(r"[\w-]+", name):  # a path has a suffix or a folder
        path = pathlib.Path(name)
        if path.stem in list_cards() and not path.exists():
            raise InputError(
                f"There is no file {name}; the card that comes with jaxvision is "
                f"--config={path.stem}{colon}{choice}."
            )
        return card
    if name not in list_cards():
        near = difflib.get_close_matches(name, list_cards(), n=1)
        hint = f" did you mean {near[0]}?" if near else ""
        raise InputError(
            f"There is no recipe card {name!r};{hint or ' `jaxvision configs` lists them.'} "
            "A file of your own is given by its path, as in --config=./mine.py."
        )
    return f"{cards_folder() / name}.py{colon}{choice}"


def make_importable() -> None:
    """Lets cards say `from configs import common`, wherever they and we are."""
    if "configs" not in sys.modules:
        module = types.ModuleType("configs")
        module.__path__ = [str(cards_folder()), str(pathlib.Path("configs").absolute())]
        sys.modules["configs"] = module


def load_card(card: str) -> Any:
    """Returns the options of a recipe card, which is run for it.

    Args:
      card: Name or path of a card, see `find_card`.

    Raises:
      InputError: if there is no such card, or it fails.
    """
    path, _, choice = find_card(card).partition(":")
    make_importable()
    spec = importlib.util.spec_from_file_location("jaxvision_card", path)
    try:
        assert spec is not None and spec.loader is not None, "it is no Python file"
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.get_config(*filter(None, [choice]))
    except Exception as error:  # a card may raise anything
        raise InputError(
            f"The config file {path} fails with {type(error).__name__}: {error}."
        ) from error
