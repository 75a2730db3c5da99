"""Folders of weights: shards, configs beside them, and what they say of the image size."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from interop import helpers

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.interop import hub
from jaxvision.interop.formats import read_weights, write_weights
from jaxvision.interop.read import read_file_or_run
from jaxvision.interop.weight_folder import CONFIG, PREPROCESSOR

WEIGHTS = helpers.random_weights(helpers.vit())
FIRST = "model-00001-of-00002.safetensors"
SECOND = "model-00002-of-00002.safetensors"


def sharded(folder, *, names=None, first=FIRST, index="model.safetensors.index.json"):
    half = len(WEIGHTS) // 2
    parts = [dict(list(WEIGHTS.items())[:half]), dict(list(WEIGHTS.items())[half:])]
    weight_map = {}
    for file, part in zip((FIRST, SECOND), parts, strict=True):
        write_weights(folder / file, part)
        weight_map |= dict.fromkeys(part, file if file == SECOND else first)
    content = {"metadata": {"total_size": 1}, "weight_map": weight_map if names is None else names}
    (folder / index).write_text(json.dumps(content))
    return folder


def test_shards_by_their_folder_and_by_their_index(tmp_path):
    sharded(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        helpers.assert_equal(read_weights(path), WEIGHTS)
        model = helpers.vit(seed=3)
        assert len(jv.load_weights(model, path).loaded) == len(WEIGHTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": f"../{FIRST}"}, "names the file '../model-0.*no file of its folder: do not"),
        ({"first": "/etc/passwd"}, "names the file '/etc/passwd', which is no file of its folder"),
        ({"first": ".."}, "no file of its folder"),
        ({"first": ""}, "names the file '', which is no file of its folder"),
        ({"first": "x" * 300}, "no file of its folder"),
        ({"first": "a\\b"}, "no file of its folder"),
        ({"first": "a\0b"}, "no file of its folder"),
        ({"first": "other.safetensors"}, "other.safetensors, which does not exist: fetch it too"),
        ({"first": SECOND}, f"{SECOND} lacks 'cls_token', which model.*index.json says"),
        ({"names": {"x": 3}}, "is no index of weights: it has no weight_map"),
        ({"names": []}, "is no index of weights"),
        ({"names": {}}, "names 0 files"),
        ({"names": {f"{i}": f"{i}" for i in range(2000)}}, "names 2000 files"),
        ({"names": {"x": "model.safetensors.index.json"}}, "which is an index itself"),
    ],
)
def test_indices_that_mean_harm(options, message, tmp_path):
    (tmp_path / "in").mkdir()
    sharded(tmp_path / "in", **options)
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "in")


def test_an_array_of_two_shards(tmp_path):
    sharded(tmp_path)
    write_weights(tmp_path / FIRST, WEIGHTS)
    with pytest.raises(InputError, match="has '.*', which another of .* has too"):
        read_weights(tmp_path)


@pytest.mark.parity
def test_a_folder_as_the_trainer_of_transformers_writes_it(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "patch_size": 8, "image_size": 32, "num_labels": 5}
    theirs = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes))
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="10kB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    (tmp_path / "old").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    (tmp_path / "old" / CONFIG).write_text((tmp_path / "one" / CONFIG).read_text())
    (tmp_path / "one" / PREPROCESSOR).write_text('{"do_resize": true}')
    for name in ("one", "many", "old"):
        model = helpers.vit(norm_eps=1e-12)
        assert jv.load_weights(model, tmp_path / name).source == "hf"
        expected = theirs.classifier.bias.detach().numpy()
        np.testing.assert_array_equal(model.head.bias[...], expected)
        file = read_file_or_run(tmp_path / name, model)
        assert file.config is not None and file.config["model_type"] == "vit"
        assert file.image_size == 32
        assert file.preprocessor == ({"do_resize": True} if name == "one" else None)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"model_type": "vit", "image_size": 384}, 384),
        ({"model_type": "vit", "image_size": [224, 160]}, (224, 160)),
        ({"model_type": "resnet"}, None),
        ({"architecture": "vit", "pretrained_cfg": {"input_size": [3, 256, 192]}}, (256, 192)),
        ({"architecture": "vit", "input_size": [3, 64, 64]}, (64, 64)),
    ],
)
def test_image_sizes_of_configs(config, size, tmp_path):
    write_weights(tmp_path / "model.safetensors", WEIGHTS)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    file = read_file_or_run(tmp_path, helpers.vit())
    assert file.image_size == size and file.config == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "is damaged .it holds a list"),
        ("{", "is damaged"),
        ("[" * 10**5, "is damaged .*nested too deeply"),
        ('{"a": NaN}', "is damaged .it holds NaN"),
        (" " * 2**24 + "{}", "is damaged .it has more than 16,777,216 bytes"),
        ('{"model_type": "vit", "image_size": "224"}', "its image_size is 224, not pixels up to"),
        ('{"model_type": "vit", "image_size": 2.5}', "its image_size is 2.5, not pixels"),
        ('{"model_type": "vit", "image_size": [1, 2, 3]}', "not pixels"),
        ('{"model_type": "vit", "image_size": 99999999}', "not pixels"),
        ('{"architecture": "x", "pretrained_cfg": 3}', "its pretrained_cfg is '3'"),
        ('{"architecture": "x", "pretrained_cfg": {"input_size": 3}}', "its input_size is 3, not"),
        ('{"architecture": "x", "pretrained_cfg": {"input_size": [3, [], 1]}}', "not pixels"),
    ],
)
def test_damaged_configs(content, message, tmp_path):
    write_weights(tmp_path / "model.safetensors", WEIGHTS)
    (tmp_path / CONFIG).write_text(content)
    with pytest.raises(InputError, match=f"config.json .*{message}") as error:
        jv.load_weights(helpers.vit(), tmp_path)
    assert len(str(error.value)) < 600
    (tmp_path / CONFIG).rename(tmp_path / PREPROCESSOR)
    if "{" != content[:1] or len(content) == 1 or "NaN" in content:
        with pytest.raises(InputError, match="preprocessor_config.json is damaged"):
            jv.load_weights(helpers.vit(), tmp_path)


def test_configs_that_belong_to_something_else(tmp_path):
    write_weights(tmp_path / "resnet50.safetensors", WEIGHTS)
    (tmp_path / CONFIG).write_text("[")
    assert read_file_or_run(tmp_path / "resnet50.safetensors", helpers.vit()).config is None
    write_weights(tmp_path / "model.safetensors", WEIGHTS)
    (tmp_path / CONFIG).write_text('{"model": {"name": "vit_b16"}, "image_size": 3}')
    file = read_file_or_run(tmp_path, helpers.vit())
    assert file.config is None and file.image_size is None


def test_folders_without_weights(tmp_path):
    with pytest.raises(InputError, match="is neither a file of weights nor the folder of a run"):
        jv.load_weights(helpers.vit(), tmp_path)
    with pytest.raises(InputError, match="has no model.safetensors, .*: give the file of weights"):
        read_weights(tmp_path)


def test_the_hub_brings_shards_and_configs(monkeypatch, tmp_path):
    sharded(tmp_path)
    (tmp_path / CONFIG).write_text('{"architecture": "x", "input_size": [3, 32, 32]}')
    asked = []

    class Missing(Exception):
        pass

    def download(repo, file, revision):
        asked.append(file)
        if not (tmp_path / file).exists():
            raise Missing
        return str(tmp_path / file)

    class Library:
        hf_hub_download = staticmethod(download)

    class Errors:
        LocalEntryNotFoundError = FileNotFoundError
        EntryNotFoundError = Missing

    monkeypatch.setattr(hub, "_library", lambda address: (Library, Errors))
    file = read_file_or_run("hub:a/b", helpers.vit())
    helpers.assert_equal(file.weights, WEIGHTS)
    assert file.image_size == (32, 32)
    assert asked == ["model.safetensors", "model.safetensors.index.json", FIRST, SECOND,
                     CONFIG, PREPROCESSOR]  # fmt: skip


def test_bfloat16_in_every_format(tmp_path):
    weights = {"a": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16), "b": np.ones((), "f4")}
    weights["c"] = np.ones((), ml_dtypes.bfloat16)
    for name in ("w.npz", "w.safetensors"):
        write_weights(tmp_path / name, weights)
        helpers.assert_equal(read_weights(tmp_path / name), weights)


def test_dtypes_that_need_scales_are_refused_by_name(tmp_path):
    weights = {"a": np.ones(3, np.float32), "b": np.ones(3, ml_dtypes.float8_e4m3fn)}
    np.savez(tmp_path / "w.npz", **weights)
    header = {"b": {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [0, 3]}}
    text = json.dumps(header).encode()
    pathlib.Path(tmp_path / "w.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + bytes(3)
    )
    with pytest.raises(InputError, match="w.npz: 'b' holds .V1 instead of numbers"):
        read_weights(tmp_path / "w.npz")
    with pytest.raises(InputError, match="'b' holds F8_E4M3, whose scales are not known here"):
        read_weights(tmp_path / "w.safetensors")
    safetensors.numpy.save_file({"a": weights["a"]}, tmp_path / "w.safetensors")
    assert list(read_weights(tmp_path / "w.safetensors")) == ["a"]
