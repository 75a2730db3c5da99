"""Files: what is read, and that a file which means harm ends in one message and nothing else."""

import argparse
import collections
import io
import json
import os
import pathlib
import pickle
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from jaxvision.errors import InputError
from jaxvision.interop.formats import read_weights, write_weights

WEIGHTS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.half": np.arange(4, dtype=np.float16),
    "c.count": np.array(3, np.int64),
}


def assert_equal(left, right):
    assert set(left) == set(right)
    for name, array in right.items():
        assert left[name].dtype == array.dtype and left[name].shape == array.shape
        np.testing.assert_array_equal(left[name], array)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_written_files_are_read_back(suffix, tmp_path):
    path = tmp_path / "new" / f"weights{suffix}"
    write_weights(path, WEIGHTS)
    assert_equal(read_weights(path), WEIGHTS)
    write_weights(str(path), {"only": np.ones(2, np.float32)})
    assert list(read_weights(str(path))) == ["only"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_bfloat16_safetensors(tmp_path):
    weights = {"x": np.arange(4).astype(ml_dtypes.bfloat16)}
    safetensors.numpy.save_file(weights, tmp_path / "x.safetensors")
    assert_equal(read_weights(tmp_path / "x.safetensors"), weights)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_weights(path, WEIGHTS)
    with pytest.raises(safetensors.SafetensorError):
        write_weights(path, WEIGHTS | {"x": np.ones(2, np.longdouble)})
    assert_equal(read_weights(path), WEIGHTS)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["weights.h5", "weights", "weights.pth"])
def test_other_suffixes(name, tmp_path):
    with pytest.raises(InputError, match="written to .safetensors or .npz files"):
        write_weights(tmp_path / name, WEIGHTS)
    if name != "weights.pth":
        (tmp_path / name).touch()
        with pytest.raises(InputError, match="read from .safetensors, .npz, .pth"):
            read_weights(tmp_path / name)
    with pytest.raises(InputError, match="There is no file"):
        read_weights(tmp_path / "none.pth")


# --- torch's format, written by torch ---------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def state(torch):
    base = torch.arange(24.0).reshape(2, 3, 4)
    return collections.OrderedDict(
        full=base,
        view=base[1, :, 1:3],  # shares the storage, is not contiguous
        transposed=base.transpose(0, 2),
        empty=torch.zeros(0, 3),
        scalar=torch.tensor(2, dtype=torch.int64),
        half=torch.arange(3.0).half(),
        double=torch.arange(3.0).double(),
        flag=torch.tensor([True, False]),
        parameter=torch.nn.Parameter(torch.ones(2)),
    )


@pytest.mark.parity
def test_torch_files(torch, tmp_path):
    tensors = state(torch)
    torch.save(tensors, tmp_path / "w.pth")
    assert_equal(
        read_weights(tmp_path / "w.pth"), {n: t.detach().numpy() for n, t in tensors.items()}
    )
    brain = {"x": torch.arange(5.0).bfloat16()}
    torch.save(brain, tmp_path / "b.pt")
    loaded = read_weights(tmp_path / "b.pt")["x"]
    assert loaded.dtype == ml_dtypes.bfloat16 and loaded.astype(np.float32).tolist() == [*range(5)]


@pytest.mark.parity
def test_a_modules_state_dict_with_its_metadata(torch, tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    assert module.state_dict()._metadata
    torch.save(module.state_dict(), tmp_path / "w.bin")
    expected = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    assert_equal(read_weights(tmp_path / "w.bin"), expected)


@pytest.mark.parity
@pytest.mark.parametrize(
    "wrap",
    [
        lambda new, old: {"model": new, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda new, old: {"state_dict": new, "arch": "resnet"},
        lambda new, old: {"model": old, "model_ema": new},
        lambda new, old: {"state_dict": old, "state_dict_ema": new},
        lambda new, old: {"module." + name: tensor for name, tensor in new.items()},
        lambda new, old: {"_orig_mod.module." + name: tensor for name, tensor in new.items()},
        lambda new, old: {
            "model_ema": {"n_averaged": old["x"]} | {f"module.{n}": t for n, t in new.items()}
        },
    ],
)
def test_checkpoints_of_training_programs(torch, wrap, tmp_path):
    new, old = {"x": torch.ones(2)}, {"x": torch.zeros(2)}
    torch.save(wrap(new, old), tmp_path / "w.pth")
    assert_equal(read_weights(tmp_path / "w.pth"), {"x": np.ones(2, np.float32)})


@pytest.mark.parity
@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (lambda torch: torch.ones(2), "holds a ndarray"),
        (lambda torch: [torch.ones(2)], "holds a list"),
        (lambda torch: {"epoch": 3}, "holds a dict with 'epoch'"),
        (lambda torch: {}, "state_dict"),
        (lambda torch: {"x": torch.ones(2), "module.x": torch.ones(2)}, "holds 'x' twice"),
        (lambda torch: torch.nn.Linear(2, 2), "names torch.nn.modules.linear.Linear"),
        (
            lambda torch: {"model": {"x": torch.ones(2)}, "args": argparse.Namespace(lr=1)},
            "names argparse.Namespace, which is not part of a tensor. Save only the state_dict",
        ),
    ],
)
def test_what_is_no_state_dict(torch, saved, message, tmp_path):
    torch.save(saved(torch), tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parity
def test_the_format_before_1_6(torch, tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"x": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="older than PyTorch 1.6.*torch.save it again"):
        read_weights(path)


# --- torch's format, written to do harm -------------------------------------------------------


class Tensor:
    """Pickles into the call that rebuilds a tensor, with any arguments."""

    def __init__(self, offset=0, shape=(2,), strides=(1,), key="0", count=4, kind="storage"):
        self.arguments = offset, shape, strides
        self.storage = kind, key, count


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
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            kind, key, count = obj.tensor.storage
            return kind, Name("torch", "FloatStorage"), key, "cpu", count
        return None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Tensor):
            self.save(Name("torch._utils", "_rebuild_tensor_v2"))
            self.save((Storage(obj), *obj.arguments, False, {}))
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def dumps(saved):
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(saved)
    return buffer.getvalue()


def write_torch(path, saved, *, data=b"", compression=zipfile.ZIP_STORED, **files):
    program = saved if isinstance(saved, bytes) else dumps(saved)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("w/data.pkl", program)
        archive.writestr("w/data/0", data or np.arange(4, dtype="<f4").tobytes())
        for name, content in files.items():
            archive.writestr(f"w/{name}", content)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.pth"


def test_the_forged_files_are_read_when_they_are_honest(path):
    write_torch(path, {"x": Tensor(), "y": Tensor(1, (3,))}, byteorder="little")
    assert_equal(
        read_weights(path),
        {"x": np.array([0, 1], np.float32), "y": np.array([1, 2, 3], np.float32)},
    )


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor(offset=3),
        Tensor(offset=4, shape=()),
        Tensor(offset=-1),
        Tensor(shape=(5,)),
        Tensor(shape=(2,), strides=(4,)),
        Tensor(shape=(2, 2), strides=(3, 2)),  # each stride alone stays inside, the sum does not
        Tensor(offset=3, shape=(2,), strides=(-1,)),
        Tensor(shape=(-1,)),
        Tensor(shape=(2**40,), strides=(0,)),  # few bytes, and terabytes once copied
        Tensor(shape=(2**62, 4), strides=(2**62, 1)),
        Tensor(shape=(2, 1), strides=(1,)),
        Tensor(shape=2),
        Tensor(shape=(2.0,)),
        Tensor(shape=(True,)),
        Tensor(offset=None),
        Tensor(count=5),
        Tensor(count=-4),
        Tensor(count=2),
        Tensor(key="1"),
        Tensor(key="../data.pkl"),
        Tensor(key=0),
        Tensor(kind="module"),
    ],
    ids=lambda tensor: f"{tensor.arguments}{tensor.storage}".replace(" ", ""),
)
def test_tensors_that_reach_beyond_their_data(tensor, path):
    with pytest.raises(InputError, match="cannot be read safely|is damaged") as error:
        read_weights(write_torch(path, {"x": tensor}))
    assert "it names" not in str(error.value)


@pytest.mark.parametrize(
    "saved",
    [
        Call(os.system, "touch HARM"),
        {"x": Tensor(), "model": Call(os.system, "touch HARM")},
        Call(eval, "open('HARM', 'w')"),
        Call(pathlib.Path, "HARM"),
        Call(Call, 1),
        b"cos\nsystem\n(S'touch HARM'\ntR.",
        b"(cos\nsystem\nS'touch HARM'\no.",
        b"(S'touch HARM'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\ntouch HARM\x85R.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
        b"\x80\x04\x8c\x0ctorch._utils\x8c\x1e_rebuild_tensor_v2.__globals__\x93.",
        b"cnumpy.core.multiarray\n_reconstruct\n.",
    ],
)
def test_no_code_is_run(saved, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with pytest.raises(InputError, match="cannot be read safely: it names"):
        read_weights(write_torch(path, saved))
    assert not (path.parent / "HARM").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b".",
        b"\x80\x63.",
        b"\xff\xff",
        b"ctorch._utils\n_rebuild_tensor_v2\n(tR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR.",
        b"ccollections\nOrderedDict\n(I1\ntR.",
        b"I1\nI2\nR.",
        b"Pabc\n.",  # a storage that is named by text
        b"}" + b"\x96" + struct.pack("<Q", 2**62) + b".",  # claims 4 EB of bytes
        b"}" + b"r" + struct.pack("<I", 2**32 - 1) + b"0.",  # claims a memo of 4 G entries
        b"(" * 100_000 + b".",
    ],
)
def test_broken_programs(program, path):
    write_torch(path, program)
    tracemalloc.start()
    with pytest.raises(InputError):
        read_weights(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_attributes_do_not_replace_methods_or_functions(path):
    # The state of a dict, and of the function that rebuilds tensors.
    dictionary = b"}(X\x01\x00\x00\x00x" + dumps(Tensor())[2:-1] + b"u"
    attributes = b"}X\x05\x00\x00\x00itemsNsb"
    function = b"ctorch._utils\n_rebuild_parameter\nN}X\x08\x00\x00\x00__name__I1\ns\x86b0"
    write_torch(path, b"\x80\x02" + function + dictionary + attributes + b".")
    assert list(read_weights(path)) == ["x"]
    write_torch(path, {"x": Tensor()})
    assert list(read_weights(path)) == ["x"]


def test_archives_that_are_not_torchs(path):
    with pytest.raises(InputError, match="compressed"):
        read_weights(write_torch(path, {"x": Tensor()}, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="big-endian"):
        read_weights(write_torch(path, {"x": Tensor()}, byteorder="big"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("b/data.pkl", b"N.")
    with pytest.raises(InputError, match="2 files data.pkl"):
        read_weights(path)
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(InputError, match="0 files data.pkl"):
        read_weights(path)


def test_damaged_files_of_every_kind(tmp_path):
    whole = write_torch(tmp_path / "w.pth", {"x": Tensor()})
    write_weights(tmp_path / "w.npz", WEIGHTS)
    write_weights(tmp_path / "w.safetensors", WEIGHTS)
    for path in (whole, tmp_path / "w.npz", tmp_path / "w.safetensors"):
        content = path.read_bytes()
        for length in (0, 1, 10, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(InputError, match=path.name):
                read_weights(path)
    content = bytearray(write_torch(whole, {"x": Tensor()}).read_bytes())
    content[content.index(np.float32(1.0).tobytes()) + 3] ^= 1  # one flipped bit of the numbers
    whole.write_bytes(content)
    with pytest.raises(InputError, match="is damaged: BadZipFile: Bad CRC-32"):
        read_weights(whole)


# --- the other formats ------------------------------------------------------------------------


def npz(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def npy(array, *, shape=None):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    content = buffer.getvalue()
    return content if shape is None else content.replace(b"(4,)", shape)


@pytest.mark.parametrize(
    "files",
    [
        {"x.npy": npy(np.array([object], dtype=object))},
        {"x.npy": b"no array"},
        {"x.npy": npy(np.ones(4), shape=b"(9999999999,)")},
        {"x.npy": npy(np.ones(4), shape=b"(-4,)")},
        {"x.npy": npy(np.array(["text"]))},
        {"x.npy": npy(np.array([1 + 2j]))},
    ],
)
def test_hostile_npz(files, tmp_path):
    with pytest.raises(InputError, match="w.npz"):
        read_weights(npz(tmp_path / "w.npz", files))


def test_npz_bomb(tmp_path):
    path = npz(tmp_path / "w.npz", {"x.npy": npy(np.ones(4))})
    content = path.read_bytes().replace(
        struct.pack("<I", len(npy(np.ones(4)))), b"\xfe\xff\xff\xff"
    )
    path.write_bytes(content)
    with pytest.raises(InputError, match="unpacks to 4294967294 bytes"):
        read_weights(path)


def safetensors_file(path, header, data=b"", *, size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        {"header": {}, "size": 2**62},
        {"header": b"[" * 10_000},
        {"header": {"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}},
        {"header": {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "data": b"1234"},
        {"header": {"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, "data": b"1234"},
        {"header": {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "data": b"1234"},
    ],
)
def test_hostile_safetensors(arguments, tmp_path):
    with pytest.raises(InputError, match="no valid .safetensors file"):
        read_weights(safetensors_file(tmp_path / "w.safetensors", **arguments))
