"""Files as torch and the programs around it write them, of any age, under any name."""

import argparse
import collections
import enum
import functools
import pathlib
import pickle
import tarfile
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from interop import forge
from interop.helpers import assert_equal

from jaxvision.errors import InputError
from jaxvision.interop.formats import read_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def tensors():
    base = torch.arange(24.0).reshape(2, 3, 4)
    return collections.OrderedDict(
        full=base,
        view=base[1, :, 1:3],
        transposed=base.transpose(0, 2),
        empty=torch.zeros(0, 3),
        scalar=torch.tensor(2),
        half=torch.arange(3.0).half(),
        double=torch.arange(3.0).double(),
        flag=torch.tensor([True, False]),
        parameter=torch.nn.Parameter(torch.ones(2)),
    )


def numpy(saved):
    return {name: tensor.detach().numpy() for name, tensor in saved.items()}


NAMES = [
    "w.pth",
    "w.pth.tar",
    "w.ckpt",
    "w.th",
    "w.pkl",
    "W.PTH",
    "pytorch_model.bin",
    "w",
    "w.npz",
]


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_the_content_decides_and_not_the_name(new, tmp_path):
    saved = tensors()
    for name in NAMES:
        torch.save(saved, tmp_path / name, _use_new_zipfile_serialization=new)
        assert_equal(read_weights(tmp_path / name), numpy(saved))
    np.savez(tmp_path / "x", **numpy(saved))
    ordered = {name: np.asarray(x, order="C") for name, x in numpy(saved).items()}
    safetensors.numpy.save_file(ordered, tmp_path / "y")
    for name, there in (("x.npz", "x.pth"), ("y", "y.ckpt")):
        assert_equal(read_weights((tmp_path / name).rename(tmp_path / there)), numpy(saved))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_format_before_1_6(protocol, tmp_path):
    saved = tensors()
    torch.save(
        {"state_dict": saved, "optimizer": {"lr": 0.1}, "brain": torch.ones(2).bfloat16()},
        tmp_path / "w.pth.tar",
        _use_new_zipfile_serialization=False,
        pickle_protocol=protocol,
    )
    weights = read_weights(tmp_path / "w.pth.tar")
    assert_equal(weights, numpy(saved))
    brain = {"x": torch.arange(3.0).bfloat16()}
    torch.save(brain, tmp_path / "b", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "b")["x"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("python_2", [False, True])
@pytest.mark.parametrize("order", [False, True])
def test_views_python_2_and_other_machines_as_torch_reads_them(python_2, order, tmp_path):
    """The numbers are little-endian whatever the machine that wrote them was."""
    saved = {"a": forge.Tensor(), "b": forge.Tensor(shape=(2,), view=("v", 2, 2))}
    path = forge.write_legacy(tmp_path / "w", saved, python_2=python_2, order=order)
    theirs = torch.load(path, weights_only=False)
    assert_equal(read_weights(path), numpy(theirs))


class Color(enum.Enum):
    RED = 1


class Config(dict):
    """Stands for yacs' CfgNode, addict's Dict and other dictionaries with attributes."""

    def __init__(self, **values):
        super().__init__(values)
        self.frozen = True


class Slots:
    __slots__ = ("x",)


def everything():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    slots = Slots()
    slots.x = 3
    return {
        "args": argparse.Namespace(lr=0.1, path=pathlib.Path("x"), sizes=[1, (2,)]),
        "counter": collections.Counter("abba"),
        "default": collections.defaultdict(list, a=[1]),
        "named": collections.OrderedDict(a=1),
        "deque": collections.deque([1]),
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "layout": torch.strided,
        "sets": [{1, 2}, frozenset({"a"}), {(1, 2): 3, None: 4, 0.5: 6, 2**40: 7}],
        "scalars": [np.float64(0.5), np.int32(3), np.bool_(True)],
        "arrays": [np.arange(3), np.array(["a"]), np.array([None]), np.zeros(2, ">f4")],
        "enum": Color.RED,
        "partial": functools.partial(int, base=2),
        "function": np.mean,
        "class": Slots,
        "objects": [slots, Config(a=Config(b=1)), range(3), slice(1), 1j, ValueError("x")],
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(),
        "whole_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3),
        "generator": torch.get_rng_state(),
        "numpy_state": np.random.default_rng(0).bit_generator.state,
        "other_tensors": [torch.ones(2).to_sparse(), torch.empty(2, device="meta")],
        "model": {"a.weight": torch.ones(2, 2)},
    }


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nothing_beside_the_weights_matters(new, protocol, tmp_path):
    saved = everything()
    if not new:
        del saved["other_tensors"]  # the old format did not have them
    torch.save(saved, tmp_path / "w", _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    assert_equal(read_weights(tmp_path / "w"), {"a.weight": np.ones((2, 2), np.float32)})


class Tagged(torch.Tensor):
    pass


def test_parameters_and_tensors_with_attributes(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.is_shared = False
    tensor = torch.arange(3.0)
    tensor.note = argparse.Namespace()
    tagged = torch.arange(4.0).as_subclass(Tagged)
    saved = {"a": parameter, "b": tensor, "c": tagged, "d": torch.ones(2, dtype=torch.uint16)}
    torch.save(saved, tmp_path / "w")
    expected = {"a": np.ones(2, np.float32), "b": np.arange(3, dtype=np.float32)}
    expected |= {"c": np.arange(4, dtype=np.float32), "d": np.ones(2, np.uint16)}
    assert_equal(read_weights(tmp_path / "w"), expected)


@pytest.mark.filterwarnings("ignore")  # quantization is deprecated
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (lambda: torch.ones(2).to_sparse(), "'a.weight' is a sparse tensor, not an array"),
        (lambda: torch.eye(2).to_sparse_csr(), "'a.weight' is a sparse tensor, not an array"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "a quantized"),
        (lambda: torch.empty(2, device="meta"), "a tensor of the meta device"),
        (lambda: torch.ones(2).to(torch.float8_e4m3fn), "'a.weight' holds float8_e4m3fn, whose"),
        (lambda: torch.ones(2).to(torch.float8_e5m2), "'a.weight' holds float8_e5m2, whose"),
        (lambda: torch.ones(2, dtype=torch.complex64), "'a.weight' holds complex64 instead of"),
        (lambda: argparse.Namespace(), "'a.weight' is an object of argparse.Namespace, whose"),
        (lambda: np.array([None]), "'a.weight' is an array of objects"),
        (lambda: np.float64(3), "'a.weight' is an object of numpy"),
    ],
)
def test_weights_that_are_none(weight, message, tmp_path):
    torch.save({"model": {"b.weight": torch.ones(2), "a.weight": weight()}}, tmp_path / "w")
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "w")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_modules_that_were_saved_whole(new, tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    module.register_buffer("index", torch.arange(3), persistent=False)
    module[0].bias.note = "x"
    for saved in (module, {"model": module, "epoch": 3}, torch.nn.DataParallel(module)):
        torch.save(saved, tmp_path / "w", _use_new_zipfile_serialization=new)
        assert_equal(read_weights(tmp_path / "w"), numpy(module.state_dict()))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_arrays(protocol, tmp_path):
    weights = {"a": np.ones((2, 3), np.float32), "b": np.asfortranarray(np.eye(3)[:2])}
    saved = {"model": weights, "__author__": "x", "matching_heuristics": True}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(saved, protocol))
    assert_equal(read_weights(tmp_path / "w.pkl"), weights)


def tar_of_old(path):
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle"):
            archive.addfile(tarfile.TarInfo(name))


def zip_of(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x")

    return write


def text(content):
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (text(b""), "is empty instead of a file of weights: download"),
        (text(b"<!DOCTYPE html>\n<html>"), "is an HTML page instead"),
        (text(b"\n <html lang=en>"), "is an HTML page instead"),
        (text(b"version https://git-lfs.github.com/spec/v1\noid"), "Git LFS.*: git lfs pull"),
        (text(b'{"error": "not found"}'), r"is a JSON text \('{\"error"),
        (text("Zugriff verweigert: 1 \u00e4 \x1b[2J".encode()), "known here .it begins with 5a"),
        (text(b"Access denied"), r"is a text \('Access denied'\)"),
        (text(b"\x1f\x8b\x08\0"), "is a gzip file .*: unpack it first"),
        (text(b"BZh91"), "is a bzip2 file"),
        (text(b"\x89HDF\r\n\x1a\nxxx"), "is an HDF5 file, as Keras writes it"),
        (text(b"\x93NUMPY\1\0"), "is a single array of numpy"),
        (text(b"\x08\x07\x12\x07pytorch\x1a\x052.1.0"), "is an ONNX model"),
        (text(b"x" * 99 + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"), "is a TensorFlow checkpoint"),
        (text(b"\x1c\0\0\0TFL3"), "is a TensorFlow Lite model"),
        (text(b"\x89PNG\r\n"), "is a PNG image"),
        (text(b"(dp0\nS'a'\n"), "is a pickle of protocol 0 or 1"),
        (text(b"\0\1\2\3" * 9), r"known here \(it begins with 00 01 02 03"),
        (text(b"\x80\x02}."), "holds a dict with nothing"),
        (text(b"\x80\x02cos\nsystem\n."), "holds an object of os.system, whose code is not run"),
        (tar_of_old, "of the tar format of PyTorch before 0.1.10 instead"),
        (zip_of("config.json", "model.weights.h5"), "is a Keras model"),
        (zip_of("photos/1.jpg"), "is a zip with 'photos/1.jpg', neither"),
        (lambda path: torch.jit.script(torch.nn.ReLU()).save(path), "is a TorchScript archive"),
        (lambda path: path.write_bytes(pickle.dumps({"a": torch.ones(2)})), "without torch.save"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_other_files_are_called_what_they_are(write, message, tmp_path):
    for name in ("w.pth", "w", "w.npz"):
        write(tmp_path / name)
        with pytest.raises(InputError, match=message) as error:
            read_weights(tmp_path / name)
        assert len(str(error.value)) < 500 and "\n" not in str(error.value)
