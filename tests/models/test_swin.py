import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.models.swin import Swin, SwinConfig
from jaxvision.models.swin_v2 import SwinV2, SwinV2Config
from jaxvision.train.optim.optimizer import decay_mask, not_decayed_names

TINY = {
    "width": 8,
    "stage_depths": (2, 2),
    "stage_heads": (1, 2),
    "window_size": 2,
    "image_size": 16,
    "num_classes": 5,
}
IMAGES = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))


def build(second=False, **overrides):
    options = {**TINY, **overrides}
    if second:
        return SwinV2(SwinV2Config(**options), rngs=nnx.Rngs(0))
    return Swin(SwinConfig(**options), rngs=nnx.Rngs(0))


def run(model, images=IMAGES):
    return jax.jit(lambda model, images: model(images))(model, images)


def params(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@pytest.mark.parametrize("second", [False, True])
def test_names_of_the_parameters(second):
    tree = params(nnx.eval_shape(lambda: build(second, scan=False)))
    assert set(tree) == {"patch_embed", "patch_norm", "stages", "norm", "head"}
    assert set(tree["stages"][0]) == {"blocks"}
    assert set(tree["stages"][1]) == {"downsample", "blocks"}
    block = tree["stages"][1]["blocks"][0]
    assert set(block) == {"norm1", "attn", "position_bias", "norm2", "mlp"}
    attn = {"query", "key", "value", "out"} | ({"logit_scale"} if second else set())
    assert set(block["attn"]) == attn
    assert set(block["position_bias"]) == ({"fc1", "fc2"} if second else {"table"})


@pytest.mark.parametrize("second", [False, True])
def test_position_biases_and_scales_do_not_decay(second):
    model = nnx.eval_shape(lambda: build(second))
    mask = decay_mask(params(model), not_decayed_names(model))
    block = mask["stages"][1]["blocks"]
    assert not any(jax.tree.leaves(block["position_bias"]))
    assert block["attn"]["query"]["kernel"] and not block["attn"].get("logit_scale", False)
    assert mask["stages"][1]["downsample"]["reduction"]["kernel"]


def test_features_pyramid_and_head_agree():
    model = build()
    maps, features, logits = jax.jit(
        lambda model: (model.pyramid(IMAGES), model.features(IMAGES), model(IMAGES))
    )(model)
    assert {stride: grid.shape for stride, grid in maps.items()} == {
        4: (2, 4, 4, 8),
        8: (2, 2, 2, 16),
    }
    np.testing.assert_allclose(features, model.norm(maps[8]), atol=1e-6)
    np.testing.assert_allclose(logits, model.head(features.mean((1, 2))), atol=1e-6)


def reach(model, images):
    """Returns which tokens of the first map the one at (0, 0) has seen."""

    def corner(images):
        return model.pyramid(images)[4][0, 0, 0].sum()

    gradient = jnp.abs(jax.jit(jax.grad(corner))(images))[0].sum(-1)
    return np.asarray(gradient.reshape(4, 4, 4, 4).sum((1, 3)) > 0)


def test_shifted_windows_join_their_neighbours():
    plain, shifted = build(stage_depths=(1, 1)), build(stage_depths=(3, 1))
    expected = np.zeros((4, 4), bool)
    expected[:2, :2] = True
    np.testing.assert_array_equal(reach(plain, IMAGES), expected)
    assert reach(shifted, IMAGES)[2, 2]  # through a window that lies across the border
    alone = build(stage_depths=(2, 1), window_size=4)  # one window: nothing to shift
    assert reach(alone, IMAGES).all()


def test_v2_starts_as_the_patches():
    model = build(True)
    patches = model.patch_norm(model.patch_embed(IMAGES))
    first = jax.jit(lambda model: model.pyramid(IMAGES)[4])(model)
    np.testing.assert_allclose(first, patches, atol=1e-6)


@pytest.mark.parametrize("second", [False, True])
def test_fitted_and_padded_windows(second):
    fitted, padded = build(second, windows="fitted"), build(second)
    np.testing.assert_array_equal(run(fitted), run(padded))
    odd = {"window_size": 3, "image_size": (20, 8)}
    fitted, padded = build(second, windows="fitted", **odd), build(second, **odd)
    images = jax.random.normal(jax.random.key(1), (1, 20, 8, 3))
    if not second:  # whose branches start at 0
        assert np.abs(run(fitted, images) - run(padded, images)).max() > 0.0
    window = fitted.stages[0].blocks.position_bias.window
    assert window == (3, 2) and padded.stages[0].blocks.position_bias.window == (3, 3)


def test_messages():
    with pytest.raises(ValueError, match="must name the same stages, got .*2, 2.*1, 2, 4"):
        build(stage_heads=(1, 2, 4))
    with pytest.raises(ValueError, match="windows must be one of padded, fitted, got 'padd'"):
        build(windows="padd")
    with pytest.raises(ValueError, match="trained_windows must name 2 stages"):
        build(True, trained_windows=(2, 2, 2))
    with pytest.raises(ValueError, match="18 x 16 pixels does not divide into patches of 4"):
        build()(jnp.zeros((1, 18, 16, 3)))


# --- Weights ------------------------------------------------------------------------------------


def test_tables_of_another_window_are_resampled_and_reported():
    small, large = build(), build(window_size=4, image_size=32)
    for donor, model in ((small, large), (large, small)):
        windows = [f"{m.config.window_size} x {m.config.window_size}" for m in (donor, model)]
        report = assign_weights(model, extract_weights(donor, format="timm"), source="timm")
        assert set(report.adapted) == {
            f"stages/{s}/blocks/{i}/position_bias/table" for s in (0, 1) for i in (0, 1)
        }
        text = report.adapted["stages/0/blocks/0/position_bias/table"]
        assert re.search(" .* ".join(windows), text)


def test_second_version_needs_no_resampling():
    small, large = build(True), build(True, window_size=4, image_size=32)
    assert not assign_weights(large, extract_weights(small)).adapted


@pytest.mark.parametrize(
    ("second", "options", "source", "message"),
    [
        (False, {"window_size": 3}, "timm", "windows='fitted'"),
        (False, {"window_size": 3, "windows": "fitted"}, "torchvision", "windows='padded'"),
        (False, {"window_size": 4, "windows": "fitted"}, "torchvision", "windows='padded'"),
        (False, {"image_size": (16, 32)}, "hf", "image_size=16"),
        (False, {"window_size": 4}, "hf", "image_size=32"),
        (True, {"window_size": 3}, "hf", "image_size=24"),
        (True, {"key_bias": True}, "timm", "key_bias=False"),
        (True, {}, "torchvision", "key_bias=True"),
        (True, {"key_bias": True, "trained_windows": (1, 1)}, "torchvision", "trained_windows="),
    ],
)
def test_models_that_a_library_has_not(second, options, source, message):
    with pytest.raises(ValueError, match=message):
        extract_weights(build(second, **options), format=source)


@pytest.mark.parametrize("source", ["timm", "torchvision", "hf"])
def test_buffers_of_older_files_are_ignored(source):
    model = build()
    weights = extract_weights(model, format=source)
    name = next(name for name in weights if name.endswith("relative_position_bias_table"))
    block = name.removesuffix("relative_position_bias_table")
    weights[f"{block}relative_position_index"] = np.zeros((4, 4), np.int64)
    assert not assign_weights(model, weights).left_out


def test_files_of_transformers_before_version_5_have_other_names():
    model, old = build(), {}
    for name, array in extract_weights(model, format="hf").items():
        for new, before in (
            ("attention.q_proj", "attention.self.query"),
            ("attention.k_proj", "attention.self.key"),
            ("attention.v_proj", "attention.self.value"),
            ("attention.relative_position_bias.", "attention.self."),
            ("attention.o_proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):
            name = name.replace(new, before)
        old[name] = array + 1.0
    report = assign_weights(model, old)
    assert report.source == "hf" and not report.left_out
    again = extract_weights(model, format="hf")["swin.encoder.layers.1.blocks.1.mlp.fc1.bias"]
    np.testing.assert_array_equal(
        again, old["swin.encoder.layers.1.blocks.1.intermediate.dense.bias"]
    )


def test_specs_of_other_windows():
    assert jv.get_spec("swin_l_384").config.window_size == 12
    config = jv.get_spec("swin_v2_b_w12to24").config
    assert config.stage_window(3) == (12, 12) and config.trained_windows == (12, 12, 12, 6)
    assert jv.get_spec("swinv2_tiny_window8_256").name == "swin_v2_t_w8"
