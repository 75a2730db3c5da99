"""Addresses of the hub: what is asked for, what is said when it is not there. No network."""

import sys
import types

import numpy as np
import pytest
from interop import helpers

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.interop import hub
from jaxvision.interop.formats import read_weights


class EntryNotFoundError(Exception):
    pass


class LocalEntryNotFoundError(EntryNotFoundError, FileNotFoundError):
    pass


@pytest.fixture
def fake(monkeypatch):
    """Stands in for huggingface_hub: `files` is what it has, or the error that it raises."""
    library = types.ModuleType("huggingface_hub")
    errors = types.ModuleType("huggingface_hub.errors")
    constants = types.ModuleType("huggingface_hub.constants")  # `huggingface_hub` alone has it not
    constants.HF_HUB_CACHE = "/cache"
    state = types.SimpleNamespace(files={}, error=EntryNotFoundError("404"), asked=[])

    def download(repo, file, *, revision=None):
        state.asked.append((repo, file, revision))
        if file in state.files:
            return str(state.files[file])
        raise state.error

    library.hf_hub_download = download
    for kind in (EntryNotFoundError, LocalEntryNotFoundError):
        setattr(errors, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    return state


def test_weights_are_loaded_from_the_usual_file(fake, tmp_path):
    path = tmp_path / "model.safetensors"
    jv.save_weights(helpers.vit(seed=1), path)
    fake.files = {"model.safetensors": path}
    model = helpers.vit(seed=2)
    report = jv.load_weights(model, "hub:someone/vit")
    assert helpers.same(helpers.leaves(model), helpers.leaves(helpers.vit(seed=1)))
    assert report.source == "timm"
    files = ("config.json", "model.safetensors", "config.json", "preprocessor_config.json")
    assert fake.asked == [("someone/vit", file, None) for file in files]


def test_the_older_file_is_the_second_choice(fake, tmp_path):
    fake.files = {"pytorch_model.bin": tmp_path / "b.bin"}
    assert hub.fetch("hub:a/b") == tmp_path / "b.bin"
    assert [file for _, file, _ in fake.asked][:3] == [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
    ]


def test_a_file_and_a_revision_by_name(fake, tmp_path):
    np.savez(tmp_path / "w.npz", x=np.ones(2))
    fake.files = {"sub/w.npz": tmp_path / "w.npz"}
    assert list(read_weights("hub:a/b@v1/sub/w.npz")) == ["x"]
    assert fake.asked == [("a/b", "sub/w.npz", "v1")]


@pytest.mark.parametrize("address", ["hub:", "hub:vit", "hub:/vit", "hub:timm/", "hub:timm/@v1"])
def test_other_addresses(fake, address):
    with pytest.raises(InputError, match="is hub:owner/name or hub:owner/name/file, got 'hub:"):
        hub.fetch(address)
    assert not fake.asked


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            EntryNotFoundError("404"),
            "a/b has no model.safetensors or .* or pytorch_model.bin.index.json on the hub",
        ),
        (
            LocalEntryNotFoundError("offline"),
            "cannot be reached and model.safetensors or .* of a/b is not in the cache /cache;",
        ),
        (OSError("401 Client Error.\nmore\nlines"), "hub:a/b cannot be fetched: 401 Client Error."),
        (ValueError(), "hub:a/b cannot be fetched: ValueError"),
    ],
)
def test_what_cannot_be_fetched_ends_with_one_sentence(fake, error, message):
    fake.error = error
    with pytest.raises(InputError, match=message) as raised:
        read_weights("hub:a/b")
    assert "\n" not in str(raised.value)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="needs huggingface_hub, .* pip install huggingface_hub"):
        jv.load_weights(helpers.vit(), "hub:a/b")


def test_local_files_do_not_ask_the_hub(fake, tmp_path):
    jv.save_weights(helpers.vit(), tmp_path / "w.npz")
    jv.load_weights(helpers.vit(), tmp_path / "w.npz")
    with pytest.raises(InputError, match="There is no file"):
        read_weights("timm/vit_tiny_patch16_224")
    assert not fake.asked


def test_the_real_package_offline(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="the hub cannot be reached and model.safetensors or"):
        hub.fetch("hub:timm/vit_tiny_patch16_224")
    with pytest.raises(InputError, match=r"hub:-a-/b cannot be fetched: .*'-a-/b'"):
        hub.fetch("hub:-a-/b")
