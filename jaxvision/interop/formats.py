"""Files of weights to and from {name: array}."""

import math
import os
import pathlib
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxvision.errors import InputError, shorten
from jaxvision.files import output_path, written_aside
from jaxvision.interop import hub
from jaxvision.interop.torch_file import read_torch_file

_TORCH = (".pth", ".pt", ".bin", ".th")
_WRITABLE = (".safetensors", ".npz")

# Where training programs put the weights beside optimizer and epoch, and their moving average.
_WEIGHTS = ("state_dict", "model")
_AVERAGED = ("state_dict_ema", "model_ema")
_MAX_NAME = 1000  # characters; real ones have a hundred

# What DistributedDataParallel and torch.compile put before every name, and Flax's programs.
_PREFIXES = ("_orig_mod.", "module.", "opt/target/", "params/")


def read_weights(path: str | pathlib.Path, *, ema: bool = False) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name; runs no code from it.

    Of a training checkpoint in torch's format only the weights are taken. Prefixes that programs
    put before every name (`module.`, `params/`) are removed.

    Args:
      path: Path of a `.safetensors`, `.npz`, or `.pth`, `.pt`, `.bin`, `.th` file as written by
        `torch.save`; or an address of the Hugging Face hub, see `hub.fetch`.
      ema: Whether the averaged weights of a training checkpoint are taken; False: only if it has no
        others.

    Raises:
      InputError: if there is no such file, it is damaged, it holds anything but arrays, or averaged
        weights are asked for and there are none.
    """
    return read_checkpoint(path, ema=ema)[0]


def read_checkpoint(
    path: str | pathlib.Path, *, ema: bool = False
) -> tuple[dict[str, np.ndarray], str | None]:
    """Returns what `read_weights` does, and where in the file it was: "model", "model_ema", ...

    Args:
      path: Path of the file, see `read_weights`.
      ema: Whether the averaged weights are taken, see `read_weights`.

    Raises:
      InputError: as `read_weights`.
    """
    if str(path).startswith(hub.PREFIX):
        path = hub.fetch(str(path))
    path, wrapper = pathlib.Path(path), None
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    if path.suffix == ".npz":
        weights = read_npz(path)
    elif path.suffix == ".safetensors":
        weights = _read_safetensors(path)
    elif path.suffix in _TORCH:
        weights, wrapper = _unwrap(read_torch_file(path), path, ema=ema)
    else:
        raise InputError(
            f"Weights are read from .safetensors, .npz, {', '.join(_TORCH)} files, got {path}."
        )
    if ema and wrapper not in _AVERAGED:
        raise InputError(
            f"{path} has no averaged weights under {' or '.join(_AVERAGED)}: leave ema=True out."
        )
    for name, array in weights.items():
        if len(name) > _MAX_NAME:
            raise InputError(f"{path} has a name of {len(name):,} characters: {shorten(name)!r}.")
        if array.dtype.kind not in "fiub" and not jnp.issubdtype(array.dtype, jnp.floating):
            raise InputError(f"{path}: {name!r} holds {array.dtype} instead of numbers.")
    return _strip(weights, path), wrapper


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
            weights = dict(arrays)
        if not all(isinstance(array, np.ndarray) for array in weights.values()):
            raise ValueError("it has parts that are no arrays")  # np.load hands them out as bytes
        return weights
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{path} is no .npz file of plain arrays: {shorten(error)}.") from error


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
        raise InputError(f"{path} is no valid .safetensors file: {shorten(error)}.") from error


def _unwrap(
    saved: Any, path: pathlib.Path, *, ema: bool
) -> tuple[dict[str, np.ndarray], str | None]:
    """Returns the weights in what a training program saved, and under which name they were."""
    wrappers = (*_AVERAGED, *_WEIGHTS) if ema else (*_WEIGHTS, *_AVERAGED)
    if isinstance(saved, dict):
        wrapper = next((name for name in wrappers if isinstance(saved.get(name), dict)), None)
        weights = saved if wrapper is None else saved[wrapper]
        if weights and all(
            isinstance(name, str) and isinstance(array, np.ndarray)
            for name, array in weights.items()
        ):
            return dict(weights), wrapper
        found = f"a dict with {', '.join(repr(shorten(name, 50)) for name in list(weights)[:3])}"
    else:
        found = f"a {type(saved).__name__}"
    raise InputError(
        f"{path} should hold a state_dict, alone or under {', '.join(wrappers)}, but holds "
        f"{found}: torch.save(model.state_dict(), path)."
    )


def _strip(weights: dict[str, np.ndarray], path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the weights without the prefixes of wrapper modules."""
    stripped = {}
    for name, array in weights.items():
        while name.startswith(_PREFIXES):
            prefix = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
            name = name.removeprefix(prefix)
        if name == "n_averaged":  # the counter of torch's AveragedModel
            continue
        if name in stripped:
            raise InputError(f"{path} holds {name!r} twice, with and without a prefix.")
        stripped[name] = array
    return stripped
