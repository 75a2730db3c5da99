"""Files of weights to and from {name: array}."""

import os
import pathlib
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxvision.errors import InputError
from jaxvision.interop.torch_file import read_torch_file

_TORCH = (".pth", ".pt", ".bin")
_WRITABLE = (".safetensors", ".npz")

# Where training programs put the weights beside optimizer and epoch; averaged weights come first.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
# What DistributedDataParallel and torch.compile put before every name.
_PREFIXES = ("_orig_mod.", "module.")


def read_weights(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name; runs no code from it.

    Of a training checkpoint in torch's format only the weights are taken, the averaged ones if
    there are any; `module.` before the names is removed.

    Args:
      path: `.safetensors`, `.npz`, or `.pth`, `.pt`, `.bin` as written by `torch.save`.

    Raises:
      InputError: if there is no such file, it is damaged, or it holds anything but arrays.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    if path.suffix == ".npz":
        weights = _read_npz(path)
    elif path.suffix == ".safetensors":
        weights = _read_safetensors(path)
    elif path.suffix in _TORCH:
        weights = _unwrap(read_torch_file(path), path)
    else:
        raise InputError(
            f"Weights are read from .safetensors, .npz, {', '.join(_TORCH)} files, got {path}."
        )
    for name, array in weights.items():
        if array.dtype.kind not in "fiub" and not jnp.issubdtype(array.dtype, jnp.floating):
            raise InputError(f"{path}: {name!r} holds {array.dtype} instead of numbers.")
    return _strip(weights, path)


def write_weights(path: str | pathlib.Path, weights: dict[str, np.ndarray]) -> None:
    """Writes arrays by name; the file appears, or replaces another, when it is complete.

    Args:
      path: `.safetensors` or `.npz`.
      weights: name -> array.

    Raises:
      InputError: if the suffix is another.
    """
    check_writable(path)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        if path.suffix == ".npz":
            arrays: Any = weights  # type checkers take the names for options of savez
            np.savez(unfinished, **arrays)
        else:
            # transformers refuses files that do not say where they come from.
            safetensors.numpy.save_file(weights, unfinished, metadata={"format": "pt"})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def check_writable(path: str | pathlib.Path) -> None:
    """Raises InputError unless `write_weights` knows the suffix."""
    if pathlib.Path(path).suffix not in _WRITABLE:
        raise InputError(f"Weights are written to {' or '.join(_WRITABLE)} files, got {path}.")


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        unpacked = sum(info.file_size for info in infos)
        # Weights hardly compress: such a file wants to fill the memory.
        if unpacked > max(2**30, 20 * path.stat().st_size):
            raise ValueError(f"it unpacks to {unpacked} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            weights = dict(arrays)
        if not all(isinstance(array, np.ndarray) for array in weights.values()):
            raise ValueError("it has parts that are no arrays")  # np.load hands them out as bytes
        return weights
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{path} is no .npz file of plain arrays: {error}.") from error


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{path} is no valid .safetensors file: {error}.") from error


def _unwrap(saved: Any, path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the weights in what a training program saved."""
    if isinstance(saved, dict):
        wrapper = next((name for name in _WRAPPERS if isinstance(saved.get(name), dict)), None)
        weights = saved if wrapper is None else saved[wrapper]
        if weights and all(
            isinstance(name, str) and isinstance(array, np.ndarray)
            for name, array in weights.items()
        ):
            return dict(weights)
        found = f"a dict with {', '.join(map(repr, list(weights)[:3]))}"
    else:
        found = f"a {type(saved).__name__}"
    raise InputError(
        f"{path} should hold a state_dict, alone or under {', '.join(_WRAPPERS)}, but holds "
        f"{found}: torch.save(model.state_dict(), path)."
    )


def _strip(weights: dict[str, np.ndarray], path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the weights without the prefixes of wrapper modules."""
    stripped = {}
    for name, array in weights.items():
        while name.startswith(_PREFIXES):
            name = name.removeprefix("_orig_mod.").removeprefix("module.")
        if name == "n_averaged":  # the counter of torch's AveragedModel
            continue
        if name in stripped:
            raise InputError(f"{path} holds {name!r} twice, with and without a prefix.")
        stripped[name] = array
    return stripped
