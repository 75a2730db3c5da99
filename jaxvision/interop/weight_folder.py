"""Folders as transformers, timm and the hub have them: weights in one file or many, a config."""

import dataclasses
import pathlib
import re
from typing import Any

from jaxvision.errors import InputError, reason, shorten
from jaxvision.files import read_json
from jaxvision.options.size import MAX_SIDE, Size, is_size

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
INDEX_SUFFIX = ".index.json"
# What such a folder has; the first are preferred, as they can hold nothing but arrays.
USUAL = (
    "model.safetensors",
    f"model.safetensors{INDEX_SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
)
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-\d+\.(safetensors|bin)")
_MAX_BYTES = 2**24  # of a JSON file
_MAX_SHARDS = 1000
_MAX_NAME = 200  # characters
_OF_A_MODEL = ("model_type", "architectures", "architecture", "pretrained_cfg")


@dataclasses.dataclass(frozen=True)
class Beside:
    """What lies beside weights.

    Attributes:
      config: Content of the config.json of timm or transformers; None: there is none.
      preprocessor: Content of the preprocessor_config.json; None: there is none.
      image_size: Size of images in the config, in pixels; None: it has none.
    """

    config: dict[str, Any] | None = None
    preprocessor: dict[str, Any] | None = None
    image_size: Size | None = None


def usual_file(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the weights, or the index of their shards, in a folder that is no run's."""
    if (folder / "checkpoints").is_dir():
        return None
    return next((folder / name for name in USUAL if (folder / name).is_file()), None)


def is_usual(name: str) -> bool:
    """Returns whether a file has a name of weights that a config belongs to."""
    return name in USUAL or _SHARD.fullmatch(name) is not None


def read_index(path: pathlib.Path) -> dict[str, list[str]]:
    """Returns the names of the arrays in each file that an index names.

    Args:
      path: Path of the index, a JSON file.

    Raises:
      InputError: if it is none, or names files of other folders.
    """
    content = _read_json(path)
    names = content["weight_map"] if "weight_map" in content else None
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise InputError(f"{path} is no index of weights: it has no weight_map, name -> file.")
    shards: dict[str, list[str]] = {}
    for name, file in names.items():
        shards.setdefault(file, []).append(name)
    for file in shards:
        if file in ("", ".", "..") or re.search(r"[/\\\0]", file) or len(file) > _MAX_NAME:
            raise InputError(
                f"{path} names the file {shorten(file)!r}, which is no file of its folder: do not "
                "use it."
            )
    if not 0 < len(shards) <= _MAX_SHARDS:
        raise InputError(f"{path} names {len(shards)} files, 1 to {_MAX_SHARDS} are read.")
    return shards


def read_beside(path: pathlib.Path) -> Beside:
    """Returns what lies beside weights, if their file has a usual name.

    Args:
      path: Path of the weights, or of the index of their shards.

    Raises:
      InputError: if a config is damaged.
    """
    if not is_usual(path.name):
        return Beside()  # in a folder of downloads, a config may be anybody's
    config, preprocessor = (
        _read_json(path.with_name(name)) if path.with_name(name).is_file() else None
        for name in (CONFIG, PREPROCESSOR)
    )
    if config is None or not any(key in config for key in _OF_A_MODEL):
        return Beside(None, preprocessor)
    return Beside(config, preprocessor, _image_size(config, path.with_name(CONFIG)))


def _image_size(config: dict[str, Any], path: pathlib.Path) -> Size | None:
    """Returns the size in a config of timm, [channels, height, width], or of transformers."""
    inner = config["pretrained_cfg"] if "pretrained_cfg" in config else config
    if not isinstance(inner, dict):
        raise _damaged(path, f"its pretrained_cfg is {shorten(inner, 50)!r}")
    size = None
    if inner.get("input_size") is not None:
        shape = inner["input_size"]
        if not isinstance(shape, list) or len(shape) != 3:
            raise _damaged(path, f"its input_size is {shorten(shape, 50)}, not [3, height, width]")
        size = tuple(shape[1:])
    elif "image_size" in config and config["image_size"] is not None:
        size = config["image_size"]
        size = tuple(size) if isinstance(size, list) else size
    if size is not None and not is_size(size):
        raise _damaged(path, f"its image_size is {shorten(size, 50)}, not pixels up to {MAX_SIDE}")
    return size


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
        return read_json(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, shorten(reason(error)).rstrip(".")) from error


def _damaged(path: pathlib.Path, why: str) -> InputError:
    return InputError(f"{path} is damaged ({why}): fetch it again, or move it away.")
