"""Models and tasks of other packages and files, by an address such as `mypackage.mymodel:spec`."""

import importlib
import importlib.util
import os
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

from jaxvision.errors import InputError


def is_address(name: str) -> bool:
    """Returns whether a name says where to find a thing outside the package."""
    return ":" in name


def import_outside(address: str, fits: Callable[[Any], bool], *, kind: str, example: str) -> Any:
    """Returns what stands at an address; imports its module, which runs the code in it.

    Args:
      address: Address "module:attribute" or "path/to/file.py:attribute"; modules are looked for in
        the current directory too.
      fits: Function that says whether an object is of the kind that is looked for.
      kind: Name of that kind with its article, for messages: "a ModelSpec".
      example: Name of such an object, for messages: "mymodel:spec".

    Raises:
      InputError: if there is no such module or attribute, the import fails, or the attribute is of
        another kind.
    """
    place, name, attribute = _parts(address)
    try:
        module = _import_module(name, example) if name == place else _import_file(name)
    except InputError:
        raise
    except Exception as error:  # the code of others can raise anything
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"The import of {place} for {address!r} failed with {type(error).__name__}: {reason}"
        ) from error
    found = vars(module).get(attribute)
    if not fits(found):
        what = f"is a {type(found).__name__}" if attribute in vars(module) else "does not exist"
        names = [key for key, value in vars(module).items() if fits(value)]
        raise InputError(
            f"{address!r} must lead to {kind}, but {attribute!r} {what} in {place}, which has "
            f"{', '.join(names) or 'none'}."
        )
    return found


def imported_outside(address: str) -> Any:
    """Returns what stands at an address if its module is imported already; runs no code."""
    _, name, attribute = _parts(address)
    return vars(sys.modules[name]).get(attribute) if name in sys.modules else None


def _parts(address: str) -> tuple[str, str, str]:
    """Returns the place in an address, the name that its module has in Python, the attribute."""
    place, _, attribute = address.rpartition(":")
    # A file's module is called by its whole path, so that it hides no other.
    name = str(pathlib.Path(place).absolute()) if place.endswith(".py") else place
    return place, name, attribute


def _import_module(name: str, example: str) -> types.ModuleType:
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except (ModuleNotFoundError, ValueError) as error:  # ValueError: an empty name
        missing = getattr(error, "name", None) or ""
        if isinstance(error, ModuleNotFoundError) and not f"{name}.".startswith(f"{missing}."):
            raise  # the module is there, but not what it imports
        raise InputError(
            f"There is no module {name!r}: what stands outside the package is written as "
            f"mypackage.{example}, in the current directory or installed, or as path/to/"
            f"{example.replace(':', '.py:')}."
        ) from error


def _import_file(path: str) -> types.ModuleType:
    if path in sys.modules:
        return sys.modules[path]
    spec = importlib.util.spec_from_file_location(path, path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise InputError(f"There is no file {path} to import.")
    module = sys.modules[path] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path]
        raise
    return module
