"""What a file is by its content: names of files mean little."""

import codecs
import pathlib
import zipfile

from jaxvision.errors import InputError, shorten
from jaxvision.interop.torch_file import MAGIC, is_index
from jaxvision.plain_pickle import PickleError, read_pickle

SAFETENSORS, NPZ, TORCH, LEGACY, PICKLE, INDEX = (
    "safetensors", "npz", "torch", "legacy torch", "pickle", "index",
)  # fmt: skip
_START = 4096  # bytes that are looked at

_SAVE_AGAIN = "save its state_dict with torch.save, or its arrays with numpy.savez"
_UNPACK = "unpack it first"
# First bytes -> what it is, and what to do.
_OTHERS: dict[bytes, tuple[str, str]] = {
    b"\x1f\x8b": ("a gzip file", _UNPACK),
    b"\xfd7zXZ\0": ("an xz file", _UNPACK),
    b"BZh": ("a bzip2 file", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd file", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"\x89HDF\r\n\x1a\n": (
        "an HDF5 file, as Keras writes it",
        "read it with h5py and write its arrays with numpy.savez",
    ),
    b"\x93NUMPY": ("a single array of numpy", "write all arrays with numpy.savez"),
    b"GGUF": ("a GGUF file", _SAVE_AGAIN),
    b"\x89PNG": ("a PNG image", "give a file of weights"),
    b"\xff\xd8\xff": ("a JPEG image", "give a file of weights"),
    b"%PDF": ("a PDF document", "give a file of weights"),
}
_NAMES: dict[str, tuple[str, str]] = {
    ".onnx": ("an ONNX model", _SAVE_AGAIN),
    ".tflite": ("a TensorFlow Lite model", _SAVE_AGAIN),
    ".pb": ("a TensorFlow graph", _SAVE_AGAIN),
    ".msgpack": (
        "a msgpack file, as Flax writes it",
        "read it with flax.serialization.msgpack_restore and write its arrays with numpy.savez",
    ),
}
_TENSORFLOW = (
    "a TensorFlow checkpoint",
    "read it with tf.train.load_checkpoint and write its arrays with numpy.savez",
)
_TABLE_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # of the index of a TensorFlow checkpoint


def file_kind(path: pathlib.Path) -> str:
    """Returns which of the formats of this module a file has.

    Args:
      path: Path of a file, of any suffix.

    Raises:
      InputError: if it has none of them; the message says what the file looks like.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_START)
        file.seek(max(0, size - 8))
        end = file.read(8)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip_kind(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        return SAFETENSORS
    if start[:1] == b"\x80":
        return LEGACY if _begins_with_magic(start) else PICKLE
    if start[:1] == b"{" and path.name.endswith(".index.json"):
        return INDEX
    if path.suffix == ".safetensors" and start[:1].isascii() and not start[:1].isalpha():
        return SAFETENSORS  # damaged, which its reader explains
    what, advice = _other(path, start, end)
    raise InputError(f"{path} is {what} instead of a file of weights: {advice}.")


def _begins_with_magic(start: bytes) -> bool:
    try:
        return read_pickle(start, {}, inert=True) == MAGIC
    except PickleError:
        return False


def _zip_kind(path: pathlib.Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # a damaged archive can raise anything
        raise InputError(f"{path} is damaged: {type(error).__name__}: {shorten(error)}.") from error
    if any(name.endswith("/constants.pkl") for name in names) and any(map(is_index, names)):
        raise InputError(
            f"{path} is a TorchScript archive, whose code is not run: in PyTorch, "
            "torch.save(torch.jit.load(path).state_dict(), new_path)."
        )
    if any(map(is_index, names)):
        return TORCH
    if "model.weights.h5" in names:
        raise InputError(
            f"{path} is a Keras model, which is not read: write its arrays with numpy.savez."
        )
    if not names and path.suffix != ".npz":
        return TORCH  # which its reader refuses
    if any(not name.endswith(".npy") for name in names):
        shown = ", ".join(repr(shorten(name, 50)) for name in names[:3])
        raise InputError(
            f"{path} is a zip with {shown}, neither of torch.save nor of numpy.savez: unpack it, "
            "and give the file of weights in it."
        )
    return NPZ


def _other(path: pathlib.Path, start: bytes, end: bytes) -> tuple[str, str]:
    """Returns what a file is, and what to do, where it is nothing that is read."""
    if not start:
        return "empty", "download or copy it again"
    for magic, what in _OTHERS.items():
        if start.startswith(magic):
            return what
    if start[4:8] == b"TFL3":
        return _NAMES[".tflite"]
    if end == _TABLE_END or ".data-0000" in path.name or b"model_checkpoint_path:" in start[:64]:
        return _TENSORFLOW
    if start[:1] == b"\x08" and (b"pytorch" in start[:64] or b"onnx" in start[:64]):
        return _NAMES[".onnx"]
    if start[257:262] == b"ustar":
        return _tar(start)
    if path.suffix.lower() in _NAMES:
        return _NAMES[path.suffix.lower()]
    return _text(start)


def _tar(start: bytes) -> tuple[str, str]:
    first = start[:100].rstrip(b"\0")
    if first in (b"sys_info", b"pickle", b"storages", b"tensors"):
        return (
            "of the tar format of PyTorch before 0.1.10",
            "torch.load it in PyTorch and torch.save it again",
        )
    return "a tar archive", _UNPACK


def _text(start: bytes) -> tuple[str, str]:
    """Returns what a text is; of anything else, how it begins."""
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS", "git lfs pull"
    lower = start.lstrip().lower()
    if lower.startswith((b"<!doctype html", b"<html")):
        return "an HTML page", "download the file itself, not the page about it"
    if start[:2] in (b"(d", b"(l", b"cc", b"ct"):
        return "a pickle of protocol 0 or 1", "write it again with pickle's protocol 2 or newer"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start).strip()
    except UnicodeDecodeError:
        text = ""
    if not text or not text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
        return (
            f"no format that is known here (it begins with {start[:8].hex(' ')})",
            "give a file of torch.save, safetensors or numpy.savez",
        )
    what = "a JSON text" if text[0] in "{[" else "a text"
    return f"{what} ({shorten(text, 60)!r})", "give a file of torch.save, safetensors or npz"
