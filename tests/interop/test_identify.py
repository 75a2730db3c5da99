"""Which model a file is of, and the sentence that says so where it is given to another."""

import functools
import time
import types

import numpy as np
import pytest
from flax import nnx
from interop import helpers

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.interop import identify as module
from jaxvision.interop.assign import extract_weights
from jaxvision.interop.formats import write_weights
from jaxvision.interop.identify import identify
from jaxvision.interop.rules import expand
from jaxvision.interop.trained import open_trained
from jaxvision.models.registry import get_spec, list_models


def has(library, name):
    """Whether a library has the model."""
    config, source = get_spec(name).config, module._sources(get_spec(name))[library]
    return all(
        getattr(config, field) == (value(config) if callable(value) else value)
        for field, value in source.requires.items()
    )


# The smallest of every family and library.
LARGEST_FIRST = sorted(list_models(), key=lambda name: -(get_spec(name).num_params or 0))
SMALLEST = {
    (get_spec(name).build, library): name
    for name in LARGEST_FIRST
    for library in module._sources(get_spec(name))
    if has(library, name)
}
CASES = [(name, library) for (_, library), name in SMALLEST.items()]


@functools.cache
def model_shapes(name):
    return module._model_shapes(name)


def shapes_of(name, library):
    """Returns what has the shapes of a model's weights in a library."""
    spec, shapes = get_spec(name), model_shapes(name)
    rules = module._sources(spec)[library].rules(spec.config)
    return {
        entry.names[0]: types.SimpleNamespace(shape=entry.shape_in_file(shapes))
        for entry in expand(rules, shapes)
        if entry.rule.constant is None
    }


@pytest.mark.parametrize(("name", "library"), CASES)
def test_a_member_of_every_family_and_library(name, library):
    weights = shapes_of(name, library)
    start = time.process_time()
    found = identify(weights)
    assert time.process_time() - start < 10  # of a second, but under type checks
    assert found is not None and name in found.names and library in found.sources
    assert found.classes == (get_spec(name).config.num_classes or None)
    if library != next(iter(module._sources(get_spec(name)))):
        return  # the rest does not depend on the library
    prefixed = {f"model.net.{key}": value for key, value in weights.items()}
    assert identify(prefixed) == found
    head = [
        key for key in weights if weights[key].shape[:1] == (get_spec(name).config.num_classes,)
    ]
    bare = identify({key: value for key, value in weights.items() if key not in head})
    assert bare is not None and name in bare.names and bare.classes is None


def test_other_channels_and_grids():
    weights = shapes_of("vit_ti16", "timm")
    weights["pos_embed"].shape = (1, 1 + 24 * 24, 192)
    weights["patch_embed.proj.weight"].shape = (192, 1, 16, 16)
    found = identify(weights)
    assert found is not None and "vit_ti16" in found.names and found.sources == ("timm",)


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"x": np.ones(3)},
        {f"layer{i}.weight": np.ones((3, 3)) for i in range(50)},
        extract_weights(helpers.vit()),
        extract_weights(helpers.resnet()),
    ],
)
def test_weights_of_no_model(weights):
    assert identify(weights) is None


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    model = jv.create_model("resnet18", num_classes=10, rngs=nnx.Rngs(0))
    write_weights(path, {f"backbone.{n}": x for n, x in extract_weights(model).items()})
    return path


def test_the_sentence_of_a_file_of_another_model(resnet18):
    holds = "net.safetensors holds a resnet18 of torchvision or timm with 10 classes, which is not "
    for model, name in ((helpers.vit(), "ViT"), (helpers.resnet(), "ResNet")):
        expected = f"{holds}the {name} it was given to: use create_model.'resnet18'., or --model="
        with pytest.raises(InputError, match=expected):
            jv.load_weights(model, resnet18)
    with pytest.raises(InputError, match=f"{holds}the ViT it was given to"):
        open_trained(str(resnet18), "vit_ti16")
    with pytest.raises(InputError, match="looks like a resnet18 of .*: give --model=resnet18"):
        open_trained(str(resnet18))
    assert open_trained(str(resnet18), "resnet18").spec.name == "resnet18"


def test_the_right_model_with_a_wrong_array_is_told_which(resnet18, tmp_path):
    model = jv.create_model("resnet18", num_classes=10, rngs=nnx.Rngs(0))
    weights = extract_weights(model)
    weights["bn1.gain"] = weights["bn1.weight"]
    write_weights(tmp_path / "w.npz", weights)
    with pytest.raises(InputError, match="no use for 'bn1.gain'"):
        jv.load_weights(model, tmp_path / "w.npz")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_real_state_dicts():
    pytest.importorskip("torch")
    pytest.importorskip("jaxvision.parity.torchvision_import")
    torchvision, timm = pytest.importorskip("torchvision"), pytest.importorskip("timm")
    transformers = pytest.importorskip("transformers")
    theirs = {
        ("resnet18", "timm"): timm.create_model("resnet18", num_classes=3),
        ("mobilenet_v3_small", "torchvision"): torchvision.models.mobilenet_v3_small(num_classes=3),
        ("resnet50", "hf"): transformers.ResNetForImageClassification(
            transformers.ResNetConfig(num_labels=3)
        ),
    }
    for (name, library), peer in theirs.items():
        found = identify(peer.state_dict())
        assert found is not None and name in found.names and library in found.sources
        assert found.classes == 3
