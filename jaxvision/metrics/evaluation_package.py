"""Where pycocoevalcap is: METEOR's word lists and SPICE's program are read there."""

import importlib.util
import pathlib

INSTALL = "type pip install 'jaxvision-nnx[caption-eval]'"


def find_package() -> pathlib.Path | None:
    """Returns the folder of pycocoevalcap, without importing it, or None where it is missing."""
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return pathlib.Path(folders[0]) if folders else None
