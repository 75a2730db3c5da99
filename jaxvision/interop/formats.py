"""Files of weights to and from {name: array}."""

import contextlib
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

from jaxvision.errors import InputError, shorten
from jaxvision.files import output_path, written_aside
from jaxvision.interop import hub
from jaxvision.interop.choose import Choice, Table, choose
from jaxvision.interop.containers import Place, check_names, find_places
from jaxvision.interop.file_kind import (
    INDEX,
    LEGACY,
    NPZ,
    PICKLE,
    SAFETENSORS,
    TORCH,
    file_kind,
)
from jaxvision.interop.pretrained import nearest_tags
from jaxvision.interop.rules import name_pattern
from jaxvision.interop.torch_file import read_legacy, read_zip
from jaxvision.interop.torch_pickle import Meanings, Tensor, is_other_tensor, what_it_is
from jaxvision.interop.weight_folder import USUAL, read_index, usual_file
from jaxvision.plain_pickle import Inert, PickleError, read_pickle

_WRITABLE = (".safetensors", ".npz")
_SUFFIXES = (*_WRITABLE, ".pth", ".pt", ".bin", ".th", ".ckpt", ".pkl", ".tar")
_MAX_HEADER = 2**24  # bytes that are looked at
_SCALED = ("F8_", "F6_", "F4")  # dtypes of safetensors


def read_weights(
    path: str | pathlib.Path, *, ema: bool = False, part: str | None = None
) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name; runs no code from it.

    The content says what the file is, not its suffix. Of a training checkpoint only the weights are
    taken. Prefixes that programs put before every name (`module.`, `params/`) are removed.

    Args:
      path: Path of a file of `torch.save` (of any version since 0.1.10), safetensors, numpy's
        `savez` or a pickle of arrays; or of a folder or an index of such files, as transformers
        writes them; or an address of the Hugging Face hub, see `hub.fetch`.
      ema: Whether the averaged weights of a training checkpoint are taken; False: only if it has no
        others.
      part: Name of the weights that are meant, where a file has several; None: it has not.

    Raises:
      InputError: if there is no such file, it is damaged, it holds no weights, or not those asked
        for.
    """
    return read_checkpoint(path, ema=ema, part=part)[0]


def read_checkpoint(
    path: str | pathlib.Path, *, ema: bool = False, part: str | None = None
) -> tuple[dict[str, np.ndarray], str | None]:
    """Returns what `read_weights` does, and where in the file it was: "model", "model_ema", ...

    Args:
      path: Path of the file, see `read_weights`.
      ema: Whether the averaged weights are taken, see `read_weights`.
      part: Name of the weights that are meant, see `read_weights`.

    Raises:
      InputError: as `read_weights`.
    """
    choice = choose(read_places(path), (), path=path, ema=ema, part=part)
    return read_values(choice, (), path=path), choice.wrapper


def read_places(path: str | pathlib.Path) -> list[Place]:
    """Returns all dictionaries of arrays in a file.

    Args:
      path: Path of the file, see `read_weights`.

    Raises:
      InputError: if there is no such file, it is damaged, or holds no weights.
    """
    path = locate(path)
    places = _places(path)
    check_names(places, path)
    return places


def _places(path: pathlib.Path) -> list[Place]:
    kind = file_kind(path)
    if kind == INDEX:
        return [Place((), _read_shards(path))]
    if kind == NPZ:
        return [Place((), dict(read_npz(path)))]
    if kind == SAFETENSORS:
        return [Place((), dict(_read_safetensors(path)))]
    with _readable(path):
        return find_places(_PICKLED[kind](path), path)


def locate(path: str | pathlib.Path) -> pathlib.Path:
    """Returns the file of weights, or the index of its shards.

    Args:
      path: Path of it, or of a folder of transformers or timm, or an address of the hub.

    Raises:
      InputError: if there is none.
    """
    if str(path).startswith(hub.PREFIX):
        path = hub.fetch(str(path))
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        file = usual_file(path)
        if file is None:
            raise InputError(f"{path} has no {', '.join(USUAL)}: give the file of weights in it.")
        return file
    if not path.is_file():
        raise InputError(f"There is no file {path}{_other_names(path)}")
    return path


def _other_names(path: pathlib.Path) -> str:
    """Returns the end of the sentence: what else was meant, where a path can be a tag."""
    if path.name != str(path) or "." not in path.name or path.suffix in _SUFFIXES:
        return "."
    return f", and no published weights of that name{nearest_tags(path.name)}"


def _read_shards(index: pathlib.Path) -> dict[str, Any]:
    """Returns the arrays of all files that an index names."""
    found: dict[str, Any] = {}
    for file, names in read_index(index).items():
        path = index.with_name(file)
        if not path.is_file():
            raise InputError(f"{index} names {path}, which does not exist: fetch it too.")
        if file_kind(path) == INDEX:
            raise InputError(f"{index} names {path}, which is an index itself.")
        values = read_places(path)[0].values
        for name in names:
            if name not in values:
                raise InputError(f"{path} lacks {shorten(name)!r}, which {index.name} says it has.")
        again = next((name for name in values if name in found), None)
        if again is not None:
            raise InputError(f"{path} has {shorten(again)!r}, which another of {index} has too.")
        found |= values
    return found


def read_values(
    choice: Choice, tables: Sequence[Table], *, path: str | pathlib.Path
) -> dict[str, np.ndarray]:
    """Returns the numbers of the weights that were chosen.

    Args:
      choice: Weights that were chosen.
      tables: Tables of the model; none: the model is not known yet.
      path: Path of the file, for the text of an error.

    Raises:
      InputError: if one of them is damaged or no array of numbers; the message names it.
    """
    patterns = [name_pattern(table.rules) for table in tables]
    weights = {}
    with _readable(path):
        for name, value in choice.values.items():
            if isinstance(value, np.ndarray | Tensor):
                array = value.array() if isinstance(value, Tensor) else value
                _check_dtype(array, name, path)
                weights[name] = array
            elif (
                is_other_tensor(value)
                or any(pattern.fullmatch(name) for pattern in patterns)
                or (isinstance(value, Inert) and "." in name)
            ):
                raise InputError(
                    f"{path}: {shorten(name)!r} is {what_it_is(value)}, not an array of numbers."
                )
    return weights


@contextlib.contextmanager
def _readable(path: str | pathlib.Path) -> Iterator[None]:
    """Turns what a damaged or hostile file raises into one sentence."""
    try:
        yield
    except InputError:
        raise
    except PickleError as error:
        raise InputError(
            f"{path} cannot be read safely: {error}. Save only the state_dict: "
            "torch.save(model.state_dict(), path)."
        ) from error
    except Exception as error:  # a damaged archive can raise anything
        raise InputError(f"{path} is damaged: {type(error).__name__}: {shorten(error)}.") from error


def _check_dtype(array: np.ndarray, name: str, path: str | pathlib.Path) -> None:
    if "float8" in array.dtype.name:
        raise InputError(_with_scales(path, name, array.dtype))
    if array.dtype.kind not in "fiub" and array.dtype != ml_dtypes.bfloat16:
        raise InputError(f"{path}: {shorten(name)!r} holds {array.dtype} instead of numbers.")


def _dtypes(path: pathlib.Path) -> dict[str, str]:
    """Returns the dtypes that the header of a .safetensors file names; none if it is damaged."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, _MAX_HEADER)))
        return {
            name: entry["dtype"]
            for name, entry in header.items()
            if name != "__metadata__" and isinstance(entry["dtype"], str)
        }
    except Exception:  # noqa: BLE001 - why it is damaged is said already
        return {}


def _with_scales(path: str | pathlib.Path, name: str, dtype: object) -> str:
    return (
        f"{path}: {shorten(name)!r} holds {dtype}, whose scales are not known here: write the "
        "weights in float16 or bfloat16."
    )


def _read_pickle(path: pathlib.Path) -> Any:
    """Returns what a pickle of plain data and arrays holds."""
    meanings = Meanings(path.stat().st_size)
    return read_pickle(path.read_bytes(), meanings.names, meanings.load_persistent, inert=True)


_PICKLED = {TORCH: read_zip, LEGACY: read_legacy, PICKLE: _read_pickle}


def write_weights(path: str | pathlib.Path, weights: dict[str, np.ndarray]) -> None:
    """Writes arrays by name; the file appears, or replaces another, when it is complete.

    Args:
      path: Path of the file, `.safetensors` or `.npz`.
      weights: Arrays by name.

    Raises:
      InputError: if the suffix is another, or the path is a URL.
    """
    check_writable(path)
    path = output_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as unfinished:
        if path.suffix == ".npz":
            arrays: Any = weights  # type checkers take the names for options of savez
            np.savez(unfinished, **arrays)
        else:
            # transformers refuses files that do not say where they come from.
            safetensors.numpy.save_file(weights, unfinished, metadata={"format": "pt"})
            umask = os.umask(0)  # the only way to read it
            os.umask(umask)
            unfinished.chmod(0o666 & ~umask)  # safetensors lets nobody else read them


def check_writable(path: str | pathlib.Path) -> None:
    """Raises InputError unless `write_weights` knows the suffix, and the path is no URL."""
    if output_path(path).suffix not in _WRITABLE:
        raise InputError(f"Weights are written to {' or '.join(_WRITABLE)} files, got {path}.")


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a `.npz` file by name.

    Raises:
      InputError: if it is damaged, holds anything but arrays, or would fill the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            unpacked = sum(info.file_size for info in infos)
            # Weights hardly compress: such a file wants to fill the memory.
            if unpacked > max(2**30, 20 * path.stat().st_size):
                raise ValueError(f"it unpacks to {unpacked} bytes")
            for info in infos:
                _check_array_size(archive, info)
        with np.load(path, allow_pickle=False) as arrays:
            weights = {name: _as_saved(array) for name, array in arrays.items()}
        if not all(isinstance(array, np.ndarray) for array in weights.values()):
            raise ValueError("it has parts that are no arrays")  # np.load hands them out as bytes
        return weights
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{path} is no .npz file of plain arrays: {shorten(error)}.") from error


def _as_saved(array: Any) -> Any:
    """Returns bfloat16 where an array has a dtype of two bytes that numpy had no name for."""
    return array.view(ml_dtypes.bfloat16) if getattr(array, "dtype", None) == "V2" else array


def _check_array_size(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Raises ValueError where an array is larger than its file: numpy takes the memory first."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise ValueError(f"it has an array {shape} in {info.file_size} bytes")


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # a damaged file can raise anything
        for name, dtype in _dtypes(path).items():
            if dtype.startswith(_SCALED):
                raise InputError(_with_scales(path, name, dtype)) from error
        raise InputError(f"{path} is no valid .safetensors file: {shorten(error)}.") from error
