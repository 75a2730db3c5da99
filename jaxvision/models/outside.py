"""Models of other packages and files, found by an address such as `mypackage.mymodel:spec`."""

import importlib
import importlib.util
import os
import pathlib
import sys
import types

from jaxvision.errors import InputError
from jaxvision.models.spec import ModelSpec


def is_address(name: str) -> bool:
    """Returns whether a name says where to find a model outside the package."""
    return ":" in name


def import_spec(address: str) -> ModelSpec:
    """Returns the ModelSpec at an address; imports its module, which runs the code in it.

    Args:
      address: Address "module:attribute" or "path/to/file.py:attribute"; modules are looked for in
        the current directory too.

    Raises:
      InputError: if there is no such module or attribute, the import fails, or the attribute is no
        ModelSpec.
    """
    place, name, attribute = _parts(address)
    try:
        module = _import_module(name) if name == place else _import_file(name)
    except InputError:
        raise
    except Exception as error:  # the code of others can raise anything
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"The import of {place} for the model {address!r} failed with {type(error).__name__}: "
            f"{reason}"
        ) from error
    found = vars(module).get(attribute)
    if not isinstance(found, ModelSpec):
        what = f"is a {type(found).__name__}" if attribute in vars(module) else "does not exist"
        names = [key for key, value in vars(module).items() if isinstance(value, ModelSpec)]
        raise InputError(
            f"{address!r} must lead to a ModelSpec, but {attribute!r} {what} in {place}, which has "
            f"{', '.join(names) or 'none'}."
        )
    return found


def imported_spec(address: str) -> ModelSpec | None:
    """Returns the ModelSpec at an address if its module is imported already; runs no code."""
    _, name, attribute = _parts(address)
    found = vars(sys.modules[name]).get(attribute) if name in sys.modules else None
    return found if isinstance(found, ModelSpec) else None


def _parts(address: str) -> tuple[str, str, str]:
    """Returns the place in an address, the name that its module has in Python, the attribute."""
    place, _, attribute = address.rpartition(":")
    # A file's module is called by its whole path, so that it hides no other.
    name = str(pathlib.Path(place).absolute()) if place.endswith(".py") else place
    return place, name, attribute


def _import_module(name: str) -> types.ModuleType:
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except (ModuleNotFoundError, ValueError) as error:  # ValueError: an empty name
        missing = getattr(error, "name", None) or ""
        if isinstance(error, ModuleNotFoundError) and not f"{name}.".startswith(f"{missing}."):
            raise  # the module is there, but not what it imports
        raise InputError(
            f"There is no module {name!r}: a model outside the package is written as "
            "mypackage.mymodel:spec, in the current directory or installed, or as "
            "path/to/file.py:spec."
        ) from error


def _import_file(path: str) -> types.ModuleType:
    if path in sys.modules:
        return sys.modules[path]
    spec = importlib.util.spec_from_file_location(path, path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise InputError(f"There is no file {path} to take a model from.")
    module = sys.modules[path] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path]
        raise
    return module
