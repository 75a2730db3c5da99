"""The tables of the MobileNets and EfficientNets, without torch."""

import jax
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.models.mobilenet import BlockRow

ROWS = (
    BlockRow(channels=8),
    BlockRow(channels=16, expansion=2, stride=2, repeats=2),
)
SQUEEZING = tuple(BlockRow(**{**vars(row), "squeeze": True}) for row in ROWS)
SMALL = {"stem_width": 8, "width": 1.0, "num_classes": 5}
TINY = {
    "mobilenet_v1": {**SMALL, "rows": (BlockRow(channels=8), BlockRow(channels=16, repeats=2))},
    "tf_mobilenetv1_100": {**SMALL, "rows": (BlockRow(channels=8),)},
    "mobilenet_v2": {**SMALL, "rows": ROWS, "last_width": 16},
    "tf_mobilenetv2_100": {**SMALL, "rows": ROWS, "last_width": 16},
    "mobilenet_v3_large": {**SMALL, "rows": SQUEEZING, "last_width": 16, "hidden_width": 16},
    "mobilenetv3_large_100": {**SMALL, "rows": SQUEEZING, "last_width": 16, "hidden_width": 16},
    "efficientnet_b0": {**SMALL, "rows": SQUEEZING, "last_width": 16},
    "tf_efficientnet_b0": {**SMALL, "rows": SQUEEZING, "last_width": 16},
}


def build(name, seed=0, **overrides):
    return jv.create_model(name, rngs=nnx.Rngs(seed), **{**TINY[name], **overrides})


@pytest.mark.parametrize(
    ("name", "library"), [(name, library) for name in TINY for library in jv.get_spec(name).peers]
)
def test_there_and_back(name, library):
    model, other = build(name), build(name, seed=1)
    weights = extract_weights(model, format=library)
    report = assign_weights(other, weights)
    assert report.source == library and not report.adapted and not report.left_out
    assert set(report.loaded) | {n for n in weights if n.endswith("tracked")} == set(weights)
    for left, right in zip(*(jax.tree.leaves(nnx.state(m)) for m in (model, other)), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("name", "library", "message"),
    [
        ("mobilenet_v3_large", "timm", "norm_eps=0.001: build the model with norm_eps=1e-05"),
        ("mobilenetv3_large_100", "torchvision", "build the model with norm_eps=0.001"),
        ("tf_mobilenetv2_100", "torchvision", "build the model with padding='symmetric'"),
        ("mobilenet_v2", "hf", "build the model with padding='same'"),
        ("efficientnet_b0", "hf", "build the model with padding='same'"),
    ],
)
def test_a_library_that_computes_something_else_is_refused(name, library, message):
    with pytest.raises(ValueError, match=message):
        extract_weights(build(name), format=library)


def test_epsilon_of_torchvision_grows_with_the_size():
    config = {"width": 1.6, "rows": SQUEEZING[:1]}
    with pytest.raises(ValueError, match="build the model with norm_eps=0.001"):
        extract_weights(build("efficientnet_b0", **config), format="torchvision")
    extract_weights(build("efficientnet_b0", norm_eps=1e-3, **config), format="torchvision")


def test_a_momentum_that_a_file_does_not_tell_is_noted():
    name = "tf_mobilenetv1_100"
    weights = extract_weights(build(name), format="hf")
    assert "hf usually 0.9997" in str(assign_weights(build(name), weights))
    assert not assign_weights(build(name, norm_momentum=0.9997), weights).notes


def test_another_head_and_other_channels():
    weights = extract_weights(build("efficientnet_b0"), format="timm")
    model = build("efficientnet_b0", num_classes=7, in_channels=1)
    report = assign_weights(model, weights)
    assert set(report.adapted) == {"head", "stem/conv/kernel"}
    kernel = weights["conv_stem.weight"].sum(1, keepdims=True).transpose(2, 3, 1, 0)
    np.testing.assert_allclose(model.stem.conv.kernel[...], kernel, atol=1e-6)
