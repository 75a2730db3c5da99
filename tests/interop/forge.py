"""Files of weights that only somebody who means harm would write."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np


class Tensor:
    """Pickles into the call that rebuilds a tensor, with any arguments."""

    def __init__(
        self, offset=0, shape=(2,), strides=(1,), key="0", count=4, kind="storage", view=None
    ):
        self.arguments = offset, shape, strides
        self.storage = kind, key, count
        self.view = view


class Storage:
    def __init__(self, tensor):
        self.tensor = tensor


class Call:
    """Pickles into the call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Name:
    """Stands for a function that need not be importable here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Pickler(pickle._Pickler):
    legacy = python_2 = False

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            kind, key, count = obj.tensor.storage
            pid = kind, Name("torch", "FloatStorage"), key, "cpu", count
            return (*pid, obj.tensor.view) if self.legacy else pid
        return None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Tensor):
            self.save(Name("torch._utils", "_rebuild_tensor_v2"))
            self.save((Storage(obj), *obj.arguments, False, {}))
            self.write(pickle.REDUCE)
        elif self.python_2 and isinstance(obj, str):
            self.write(pickle.SHORT_BINSTRING + bytes([len(obj)]) + obj.encode())
        elif self.python_2 and isinstance(obj, dict):
            self.save(Name("collections", "OrderedDict"))
            self.save(([[key, value] for key, value in obj.items()],))
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def dumps(saved):
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(saved)
    return buffer.getvalue()


def write_legacy(path, saved, *, keys=("0",), data=None, version=1001, python_2=False, order=True):
    """Writes the format before PyTorch 1.6, as Python 2 or 3 did."""
    buffer = io.BytesIO()
    keys = list(keys) if isinstance(keys, tuple) else keys
    system = {"protocol_version": 1001, "little_endian": order}
    for part in (0x1950A86A20F9469CFC6C, version, system, saved, keys):
        if isinstance(part, bytes):
            buffer.write(part)
            continue
        pickler = Pickler(buffer, 2)
        pickler.legacy, pickler.python_2 = True, python_2
        pickler.dump(part)
    numbers = struct.pack("<q", 4) + np.arange(4, dtype="<f4").tobytes()
    path.write_bytes(buffer.getvalue() + (numbers if data is None else data))
    return path


def write_torch(path, saved, *, data=b"", compression=zipfile.ZIP_STORED, **files):
    program = saved if isinstance(saved, bytes) else dumps(saved)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("w/data.pkl", program)
        archive.writestr("w/data/0", data or np.arange(4, dtype="<f4").tobytes())
        for name, content in files.items():
            archive.writestr(f"w/{name}", content)
    return path


def write_npz(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def npy(array, *, shape=None):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    content = buffer.getvalue()
    return content if shape is None else content.replace(b"(4,)", shape)


def npz_bomb(folder):
    """Writes w.npz, which says that it unpacks to 4 GB."""
    path = write_npz(folder / "w.npz", {"x.npy": npy(np.ones(4))})
    size = struct.pack("<I", len(npy(np.ones(4))))
    path.write_bytes(path.read_bytes().replace(size, b"\xfe\xff\xff\xff"))
    return path


def write_safetensors(path, header, data=b"", *, size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)
    return path
