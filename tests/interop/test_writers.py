"""A row for each program that writes files of weights: what becomes of its files.

`pytest -s` prints the table.
"""

import argparse
import pathlib
import pickle
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy
from interop import forge, helpers
from interop.test_containers import (
    ARGS,
    DINO,
    LIGHTNING,
    LOSS,
    META,
    MOCO,
    V_BARE,
    Node,
    V,
    W,
    under,
)

import jaxvision as jv
from jaxvision.errors import InputError

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
ARRAYS = {name: tensor.numpy() for name, tensor in V.items()}


def timm():
    pytest.importorskip("jaxvision.parity.torchvision_import")
    return pytest.importorskip("timm")


def net():
    made = timm().create_model("vit_tiny_patch16_224", num_classes=5, **TINY)
    made.load_state_dict(V)
    return made


def saved(make, *, name="w.pth", **options):
    return lambda folder: torch.save(make(), folder / name, **options)


def content(data, name="w.pth"):
    return lambda folder: (folder / name).write_bytes(data)


def checkpoint_saver(folder):
    model = net()
    ema = timm().utils.ModelEmaV3(model)
    saver = timm().utils.CheckpointSaver(
        model,
        torch.optim.AdamW(model.parameters()),
        args=argparse.Namespace(model="vit", lr=0.1),
        model_ema=ema,
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(3)
    (folder / "last.pth.tar").rename(folder / "w.pth")


def pretrained(**options):
    def write(folder):
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 64, "patch_size": 8, "image_size": 32, "num_labels": 5}
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes))
        model.save_pretrained(folder / "w.pth", **options)

    return write


def keras(folder):
    with zipfile.ZipFile(folder / "w.pth", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", "x")


def sparse():
    return V | {"head.weight": V["head.weight"].to_sparse()}


def scripted(folder):
    torch.jit.script(torch.nn.Linear(2, 2)).save(folder / "w.pth")


# Writer, how it writes w.pth, the place that is reported or the error, options of the reader.
Row = tuple[str, Callable, str | None, dict]
ROWS: list[Row] = [
    ("torch.save", saved(lambda: net().state_dict()), None, {}),
    ("torch < 1.6", saved(lambda: net().state_dict(), _use_new_zipfile_serialization=False),
     None, {}),
    ("torch.save(model)", saved(net), None, {}),
    ("torch.save, bfloat16", saved(lambda: net().bfloat16().state_dict()), None, {}),
    ("DataParallel", saved(lambda: torch.nn.DataParallel(net()).state_dict()), None, {}),
    ("torch.compile", saved(lambda: torch.compile(net()).state_dict()), None, {}),
    ("AveragedModel", saved(lambda: torch.optim.swa_utils.AveragedModel(net()).state_dict()),
     None, {}),
    ("timm CheckpointSaver", checkpoint_saver, "state_dict", {}),
    ("timm CheckpointSaver", checkpoint_saver, "state_dict_ema", {"ema": True}),
    ("torchvision's script", saved(lambda: {"model": V, "model_ema": under("module.", W)} | META
                                   | ARGS | {"lr_scheduler": {"last_epoch": 1}, "scaler": {}}),
     "model", {}),
    ("Lightning", saved(lambda: {"state_dict": under("model.", V) | LOSS} | LIGHTNING),
     "state_dict.model", {}),
    ("save_pretrained", pretrained(), None, {}),
    ("save_pretrained, shards", pretrained(max_shard_size="10kB"), None, {}),
    ("MoCo v3", saved(lambda: MOCO), "state_dict.base_encoder", {"part": "base_encoder"}),
    ("MoCo v3", saved(lambda: MOCO), "base_encoder' and|fit in 2 parts", {}),
    ("DINO", saved(lambda: DINO), "teacher.backbone", {"part": "teacher"}),
    ("DINO", saved(lambda: DINO), "fit in 2 parts, 'student.backbone', 'teacher.backbone'", {}),
    ("MAE", saved(lambda: {"model": V_BARE, "scaler": {}} | ARGS), "model", {}),
    ("DeiT", saved(lambda: {"model": V}), "model", {}),
    ("Swin, ConvNeXt", saved(lambda: {"model": V, "config": Node(a=Node())} | META), "model", {}),
    ("numpy.savez", lambda folder: np.savez((folder / "w.pth").open("wb"), **ARRAYS), None, {}),
    ("safetensors", lambda f: safetensors.numpy.save_file(ARRAYS, f / "w.pth"), None, {}),
    ("pickle.dump, arrays", content(pickle.dumps({"model": ARRAYS, "__author__": "x"}, 4)),
     "model", {}),
    ("pickle.dump, tensors", content(pickle.dumps(V)), "pickled without torch.save", {}),
    ("sparse", saved(sparse), "'head.weight' is a sparse tensor", {}),
    ("float8", saved(lambda: {n: x.to(torch.float8_e4m3fn) for n, x in V.items()}),
     "holds float8_e4m3fn", {}),
    ("TorchScript", scripted, "is a TorchScript archive", {}),
    ("Keras 3", keras, "is a Keras model", {}),
    ("Keras 2", content(b"\x89HDF\r\n\x1a\n"), "is an HDF5 file", {}),
    ("ONNX", content(b"\x08\x07\x12\x07pytorch"), "is an ONNX model", {}),
    ("git lfs", content(b"version https://git-lfs.github.com/spec/v1"), "a pointer of Git LFS", {}),
    ("a web page", content(b"<!doctype html>"), "is an HTML page", {}),
    ("gzip", content(b"\x1f\x8b\x08"), "is a gzip file", {}),
    ("attacker", lambda folder: forge.write_torch(folder / "w.pth", forge.Call(eval, "1")),
     "an object of __builtin__.eval, whose code is not run", {}),
]  # fmt: skip


@pytest.mark.parametrize(("writer", "write", "expected", "options"), ROWS,
                         ids=[f"{row[0]}{'-'.join(row[3])}" for row in ROWS])  # fmt: skip
def test_what_becomes_of_the_files_of(writer, write, expected, options, tmp_path):
    write(tmp_path)
    path: pathlib.Path = tmp_path / "w.pth"
    model = helpers.vit()
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    try:
        report = jv.load_weights(model, path, **options)
    except InputError as error:
        message = str(error).replace(f"{tmp_path}/", "")
        print(f"\n| {writer}{given} | refused | {message} |")
        assert expected is not None and any(each in message for each in expected.split("|"))
        assert "\n" not in message
        return
    container, _, prefix = (report.wrapper or "").partition(".")
    counted = f"{len(report.loaded)} read, {len(report.left_out)} left out"
    print(f"\n| {writer}{given} | {container or '-'} | {prefix or '-'} | {counted} |")
    assert report.wrapper == expected
    assert report.loaded
