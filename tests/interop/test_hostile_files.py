"""Files of weights that mean harm end in one message and nothing else."""

import os
import pathlib
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from interop.forge import (
    Call,
    Tensor,
    dumps,
    npy,
    npz_bomb,
    write_legacy,
    write_npz,
    write_safetensors,
    write_torch,
)
from interop.helpers import WEIGHTS, assert_equal, vit

import jaxvision as jv
from jaxvision import plain_pickle
from jaxvision.errors import InputError
from jaxvision.interop.formats import read_weights, write_weights

# --- torch's format ---------------------------------------------------------------------------


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
    ("saved", "message"),
    [
        (Call(os.system, "touch HARM"), "an object of posix.system, whose code is not run"),
        ({"x": Call(os.system, "touch HARM"), "y": Call(eval, "1")}, "holds a dict with 'x', 'y'"),
        (Call(eval, "open('HARM', 'w')"), "an object of __builtin__.eval"),
        (Call(pathlib.Path, "HARM"), "an object of pathlib.Path"),
        (Call(Call, 1), "an object of interop.forge.Call"),
        (b"cos\nsystem\n(S'touch HARM'\ntR.", "the instruction b'S'"),
        (b"(cos\nsystem\nX\x0a\0\0\0touch HARMo.", "an object of os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\ntouch HARM\x85R.", "object of os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\ntouch HARM\x85\x81.", "object of os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93)}\x92.", "object of os.system"),
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "object of torch._utils"),
        (
            b"\x80\x04\x8c\x0ctorch._utils\x8c\x1e_rebuild_tensor_v2.__globals__\x93.",
            "object of torch._utils._rebuild_tensor_v2.__globals__",
        ),
        (b"cnumpy.core.multiarray\n_reconstruct\n.", "holds a function"),
    ],
)
def test_no_code_is_run(saved, message, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with pytest.raises(InputError, match=message):
        read_weights(write_torch(path, saved))
    assert not (path.parent / "HARM").exists()


def test_code_beside_the_weights_is_not_run(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    beside = {"args": Call(os.system, "touch HARM"), "hook": Call(eval, "open('HARM', 'w')")}
    assert list(read_weights(write_torch(path, {"model": {"x": Tensor()}} | beside))) == ["x"]
    assert not (path.parent / "HARM").exists()
    for harm in (Call(os.system, "touch HARM"), Call(Call, 1)):
        write_torch(path, {"model": {"x": Tensor(), "y.weight": harm}})
        with pytest.raises(InputError, match="'y.weight' is an object of .*, not an array"):
            read_weights(path)


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
        b"(" * 10_000 + b".",
        b"(S'touch HARM'\nios\nsystem\n.",  # before protocol 2
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
    function = b"ctorch._utils\n_rebuild_parameter\nN}X\x08\x00\x00\x00__name__K\x01s\x86b0"
    write_torch(path, b"\x80\x02" + function + dictionary + attributes + b".")
    assert list(read_weights(path)) == ["x"]
    write_torch(path, {"x": Tensor()})
    assert list(read_weights(path)) == ["x"]


def doubled(opcodes, times=60):
    """Returns the program of a tuple of two of a tuple of two ..."""
    return opcodes + b"".join(b"q%ch%c\x86" % (i, i) for i in range(times))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"}" + doubled(b"N") + b"Ns.", "holds a dict with nothing"),
        (b"}" + b")" + b"\x85" * 1000 + b"Ns.", "holds a dict with nothing"),
        (b"ccollections\nOrderedDict\n]" + doubled(b"N") + b"N\x86a\x85R.", "a dict with nothing"),
        (doubled(b"N") + b"Q.", "it has data that is not a tensor"),
        (doubled(b"N") + b"." , "holds a tuple"),
        (b"}\x96" + struct.pack("<Q", 3 * 2**30) + b"Ns.", "is cut short"),
        (b"}X" + b"\0\0\x10\0" + b"\x1b" * 2**20 + b"Ns.", r"a dict with '(\\\\x1b){6}.* \.\.\. "),
        (dumps({"module." * 10**6: Tensor()}), "a name of 7,000,000 characters: 'module"),
        (dumps({"x": Tensor(key="0" * 10**6)}), "no file data/0000000000"),
        (dumps({"x": Tensor(shape=(1,) * 65, strides=(1,) * 65)}), "a tensor that is none"),
        (dumps({"x": Tensor(shape=((),), strides=(1,))}), "a tensor that is none"),
        (dumps({"x": Tensor(shape=(1,), strides=(2**70,))}), "is damaged"),
        (dumps({"x": Tensor(shape=(0, 2**62, 2**62), strides=(1, 1, 1))}), "is damaged"),
    ],
    ids=[
        "doubled-key", "deep-key", "pairs", "doubled-storage", "doubled", "sizes", "long-key",
        "prefixes", "long-storage", "rank", "shape-of-shapes", "stride", "empty",
    ],
)  # fmt: skip
def test_programs_that_take_time_or_memory(program, message, path):
    write_torch(path, program)
    tracemalloc.start()
    with pytest.raises(InputError, match=message) as error:
        read_weights(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert len(str(error.value)) < 2000 and "\x1b" not in str(error.value)


# --- the format before 1.6 --------------------------------------------------------------------


def test_honest_files_of_the_old_format(path):
    expected = {"x": np.array([1, 2], np.float32)}
    view = Tensor(shape=(2,), view=("v", 1, 2))
    for saved in ({"x": Tensor(1)}, {"x": view}, {"model": {"x": Tensor(1)}, "args": Call(eval)}):
        for python_2 in (False, True):
            assert_equal(read_weights(write_legacy(path, saved, python_2=python_2)), expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"saved": {"x": Tensor(shape=(2,), view=("v", 3, 2))}},
        {"saved": {"x": Tensor(shape=(2,), view=("v", -1, 2))}},
        {"saved": {"x": Tensor(shape=(3,), view=("v", 1, 2))}},
        {"saved": {"x": Tensor(shape=(2,), view=(1,))}},
        {"saved": {"x": Tensor(shape=(5,))}},
        {"saved": {"x": Tensor()}, "keys": ()},
        {"saved": {"x": Tensor()}, "keys": ("1",)},
        {"saved": {"x": Tensor()}, "keys": ("0", "0")},
        {"saved": {"x": Tensor()}, "keys": (("0",),)},
        {"saved": {"x": Tensor()}, "keys": 3},
        {"saved": {"x": Tensor()}, "data": struct.pack("<q", 2**62) + b"x" * 16},
        {"saved": {"x": Tensor()}, "data": struct.pack("<q", -1) + b"x" * 16},
        {"saved": {"x": Tensor()}, "data": struct.pack("<q", 3) + b"x" * 12},
        {"saved": {"x": Tensor()}, "data": b""},
        {"saved": {"x": Tensor()}, "version": 1002},
        {"saved": {"x": Tensor()}, "version": doubled(b"N") + b"."},
        {"saved": {"x": Tensor()}, "version": b"(" * 10**4},
        {"saved": b")" + b"\x85" * 3_000 + b"."},
    ],
)
def test_hostile_files_of_the_old_format(arguments, path, monkeypatch):
    monkeypatch.setattr(plain_pickle, "_MAX_INSTRUCTIONS", 2_000)
    write_legacy(path, **arguments)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="w.pth (cannot be read safely|is damaged)") as error:
            read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x8f(" + doubled(b"N") + b"\x90.", "holds an object of a set"),
        (b"}X\1\0\0\0x(" + doubled(b"N") + b"\x91s.", "a dict with 'x'"),
        (b"cm\nC\n)\x81" + doubled(b"N") + b"b.", "an object of m.C"),
        (b"cm\nC\n)\x81}X\x0b\0\0\0_parametersNsb.", "an object of m.C"),
        (
            b"ccollections\nOrderedDict\nq\1(" + b"NN\x86" * 100 + b"lq\0." ,
            "instruction b'l'",
        ),
        (
            b"](" + b"X\1\0\0\0xN\x86" * 1000 + b"eq\0\x850ccollections\nOrderedDict\nq\1"
            + b"h\1h\0\x85R0" * 1000 + b".",
            "more items than the file has bytes",
        ),
    ],
    ids=["set", "frozenset", "state", "half-module", "list", "ordered"],
)  # fmt: skip
def test_inert_objects_cost_nothing(program, message, path):
    write_torch(path, program)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message):
            read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_modules_that_are_their_own_children(path):
    def module(children, parameters=()):
        state = {"_parameters": dict(parameters), "_buffers": {}, "_modules": children}
        return b"cm\nC\n)\x81" + dumps(state)[2:-1] + b"b"

    write_torch(path, b"\x80\x02" + module({}, {"weight": Tensor()}) + b".")
    assert list(read_weights(path)) == ["weight"]
    # Sixty modules, each with the next one twice.
    program = b"cm\nC\n)\x81q\x00"
    for i in range(60):
        state = b"(" + b"".join(b"X%b%b" % (struct.pack("<I", len(n)), n) + x for n, x in (
            (b"_parameters", b"}"), (b"_buffers", b"}"),
            (b"_modules", b"}(X\1\0\0\0ah%cX\1\0\0\0bh%cu" % (i, i)),
        ))  # fmt: skip
        program += b"0cm\nC\n)\x81q%c}%bub" % (i + 1, state)
    write_torch(path, program + b".")
    with pytest.raises(InputError, match="a module of more than 100,000 parts"):
        read_weights(path)


def test_views_of_one_storage_are_shared_and_few(path, monkeypatch):
    data = np.ones(2**20, "<f4").tobytes()
    view = {"offset": 0, "shape": (2**20,), "strides": (1,), "count": 2**20}
    write_torch(path, {f"{i}": Tensor(**view) for i in range(11)}, data=data)
    tracemalloc.start()
    assert len(read_weights(path)) == 11
    assert tracemalloc.get_traced_memory()[1] < 3 * 2**22
    tracemalloc.stop()
    write_torch(path, {f"{i}": Tensor(**view) for i in range(2000)}, data=data)
    with pytest.raises(InputError, match="tensors have more than 8 times the file's bytes"):
        read_weights(path)


def test_archives_of_several_disks(path):
    """A 64-bit directory that says that there are two disks."""
    content = write_torch(path, {"x": Tensor()}).read_bytes()
    directory = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 46, 0)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, 0, 2)
    path.write_bytes(content[:-22] + directory + locator + content[-22:])
    with pytest.raises(InputError, match="w.pth is damaged: BadZipFile: zipfiles that span multip"):
        read_weights(path)


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
        read_weights(write_npz(tmp_path / "w.npz", files))


def test_memory_for_arrays_that_are_not_there(tmp_path):
    write_npz(tmp_path / "w.npz", {"x.npy": npy(np.ones(4), shape=b"(99999999,)")})
    tracemalloc.start()
    with pytest.raises(InputError, match=r"an array \(99999999,\) in [0-9]+ bytes"):
        read_weights(tmp_path / "w.npz")
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_npz_bomb(tmp_path):
    path = npz_bomb(tmp_path)
    with pytest.raises(InputError, match="unpacks to 4294967294 bytes"):
        read_weights(path)


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
        read_weights(write_safetensors(tmp_path / "w.safetensors", **arguments))


def test_long_names_of_every_format(tmp_path):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    long = "module." * 10**6
    write_safetensors(tmp_path / "w.safetensors", {long: entry}, b"1234")
    write_npz(tmp_path / "w.npz", {"module." * 9000 + ".npy": npy(np.ones(1))})
    for name, length in (("w.safetensors", "7,000,000"), ("w.npz", "63,000")):
        with pytest.raises(InputError, match=f"a name of {length} characters"):
            read_weights(tmp_path / name)


def test_many_names_take_no_time(tmp_path):
    def header(count):
        entries = ((f"a.b.c.d.e.f{i}", i) for i in range(count))
        return {n: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for n, i in entries}

    write_safetensors(tmp_path / "w.safetensors", header(60_000), bytes(60_000))
    with pytest.raises(InputError, match="has 60,000 arrays, up to 50,000 are read"):
        read_weights(tmp_path / "w.safetensors")
    write_safetensors(tmp_path / "w.safetensors", header(10_000), bytes(10_000))
    start = time.process_time()
    with pytest.raises(InputError, match="no ViT of timm"):
        jv.load_weights(vit(), tmp_path / "w.safetensors")
    assert time.process_time() - start < 20
