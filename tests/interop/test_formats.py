"""Files of weights: what is read and what is written."""

import argparse
import collections
import os

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from interop.helpers import WEIGHTS, assert_equal

from jaxvision.errors import InputError
from jaxvision.interop.formats import read_checkpoint, read_weights, write_weights


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


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.npz"])
def test_written_files_have_the_rights_that_the_user_gives(name, tmp_path):
    old = os.umask(0o027)
    try:
        write_weights(tmp_path / name, WEIGHTS)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["weights.h5", "weights", "weights.pth"])
def test_other_suffixes(name, tmp_path):
    with pytest.raises(InputError, match="written to .safetensors or .npz files"):
        write_weights(tmp_path / name, WEIGHTS)
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
    expected = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    for name in ("w.bin", "w.th"):
        torch.save(module.state_dict(), tmp_path / name)
        assert_equal(read_weights(tmp_path / name), expected)


@pytest.mark.parity
@pytest.mark.parametrize(
    "wrap",
    [
        lambda new, old: {"model": new, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda new, old: {"state_dict": new, "arch": "resnet"},
        lambda new, old: {"model": new, "model_ema": old},
        lambda new, old: {"state_dict": new, "state_dict_ema": old},
        lambda new, old: {"model_ema": new, "epoch": 3},
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
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_that_training_programs_save_beside_the_weights(torch, protocol, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    saved = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),  # its state is under whole numbers
        "lr_schedulers": [schedule.state_dict()],
        "loops": {"fit_loop": {"state_dict": {}, "epoch": {"current": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_k_models": {}, "best": None}},
        "metric": 81.5,
        "rng": torch.get_rng_state(),
    }
    torch.save(saved, tmp_path / "w.pth", pickle_protocol=protocol)
    expected = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert_equal(read_weights(tmp_path / "w.pth"), expected)


@pytest.mark.parity
def test_tied_weights_stay_tied(torch, tmp_path):
    embedding = torch.arange(6.0).reshape(2, 3)
    torch.save({"embed": embedding, "head": embedding, "turned": embedding.T}, tmp_path / "w.pth")
    weights = read_weights(tmp_path / "w.pth")
    assert np.shares_memory(weights["embed"], weights["head"])
    assert weights["turned"].flags.c_contiguous  # safetensors would write another order wrongly
    np.testing.assert_array_equal(weights["turned"], embedding.T.numpy())


@pytest.mark.parity
@pytest.mark.parametrize("name", ["model", "state_dict"])
def test_averaged_weights_when_asked_for(torch, name, tmp_path):
    averaged = f"{name}_ema"
    torch.save({name: {"x": torch.zeros(2)}, averaged: {"x": torch.ones(2)}}, tmp_path / "w.pth")
    weights, wrapper = read_checkpoint(tmp_path / "w.pth")
    assert wrapper == name and not weights["x"].any()
    weights, wrapper = read_checkpoint(tmp_path / "w.pth", ema=True)
    assert wrapper == averaged and weights["x"].all()


@pytest.mark.parity
def test_averaged_weights_that_are_not_there(torch, tmp_path):
    torch.save({"model": {"x": torch.ones(2)}}, tmp_path / "w.pth")
    write_weights(tmp_path / "w.npz", WEIGHTS)
    for name in ("w.pth", "w.npz"):
        with pytest.raises(InputError, match="has no averaged weights under state_dict_ema or"):
            read_weights(tmp_path / name, ema=True)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (lambda torch: torch.ones(2), "holds a single tensor"),
        (lambda torch: [torch.ones(2)], "holds a list"),
        (lambda torch: {"epoch": 3}, "holds a dict with 'epoch'"),
        (lambda torch: {}, "state_dict"),
        (lambda torch: {"x": torch.ones(2), "module.x": torch.ones(2)}, "holds 'x' twice"),
        (
            lambda torch: argparse.Namespace(lr=1),
            "holds an object of argparse.Namespace, whose code is not run: torch.save",
        ),
    ],
)
def test_what_is_no_state_dict(torch, saved, message, tmp_path):
    torch.save(saved(torch), tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "w.pth")
