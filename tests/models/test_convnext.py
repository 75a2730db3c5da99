import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.models.convnext import ConvNeXt, ConvNeXtConfig

TINY = {"stage_depths": (1, 2), "stage_widths": (8, 32), "num_classes": 5}
IMAGES = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))


@functools.cache
def build(**overrides):
    # Compiled as one program: drawing the values one by one takes ten times as long.
    return nnx.jit(lambda: ConvNeXt(ConvNeXtConfig(**{**TINY, **overrides}), rngs=nnx.Rngs(0)))()


def abstract(**overrides):
    config = ConvNeXtConfig(**{**TINY, **overrides})
    return nnx.eval_shape(lambda: ConvNeXt(config, rngs=nnx.Rngs(0)))


def params_of(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@jax.jit
def run(model, images):
    """Returns what the three calls return, as one program."""
    return model(images), model.features(images), model.pyramid(images)


def test_names_of_the_parameters():
    params = params_of(abstract(scan=False))
    assert set(params) == {"stem", "stem_norm", "stages", "norm", "head"}
    assert set(params["stages"][0]) == {"blocks"}
    assert set(params["stages"][1]) == {"downsample", "blocks"}
    assert set(params["stages"][1]["blocks"][1]) == {"conv", "norm", "mlp", "layer_scale"}
    plain = params_of(abstract(layer_scale_init=None))["stages"][1]["blocks"]
    assert set(plain) == {"conv", "norm", "mlp"}
    assert plain["conv"]["kernel"].shape == (2, 7, 7, 1, 32)


def test_maps_as_published():
    model = nnx.eval_shape(lambda: jv.create_model("convnext_tiny", rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    maps = jax.eval_shape(lambda model, images: model.pyramid(images), model, images)
    shapes = {stride: grid.shape[1:] for stride, grid in maps.items()}
    assert shapes == {4: (56, 56, 96), 8: (28, 28, 192), 16: (14, 14, 384), 32: (7, 7, 768)}


def test_the_norm_is_between_pooling_and_head():
    model = build()
    logits, features, maps = run(model, IMAGES)
    assert features.shape == (2, 2, 3, 32)
    np.testing.assert_array_equal(maps[8], features)
    expected = model.head(model.norm(features.mean((1, 2))))
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_pixels_that_fill_no_patch_are_left_out():
    model = build()
    ragged = jnp.pad(IMAGES, ((0, 0), (0, 4), (0, 7), (0, 0)), constant_values=3.0)
    # 20 x 31 pixels: 5 x 7 patches, of which the second stage reads 4 x 6.
    logits, features, _ = run(model, ragged)
    assert features.shape == (2, 2, 3, 32)
    np.testing.assert_allclose(logits, run(model, ragged[:, :20, :28])[0], atol=1e-6)
    with pytest.raises(ValueError, match="map of 1 x 4 pixels holds no patch of 2 x 2"):
        jax.eval_shape(lambda model: model(IMAGES[:, :7, :16]), model)


def test_blocks_begin_as_the_identity():
    model = build()
    maps = run(model, IMAGES)[2]
    inputs = model.stem_norm(model.stem(IMAGES))
    np.testing.assert_allclose(maps[4], inputs, atol=1e-5)  # but for a LayerScale of 1e-6
    scale = params_of(model)["stages"][1]["blocks"]["layer_scale"]["gamma"]
    np.testing.assert_array_equal(scale, np.full((2, 32), 1e-6, np.float32))


def test_libraries_are_told_apart():
    model = build()
    for source in ("timm", "torchvision"):
        fresh = abstract()
        assert assign_weights(fresh, extract_weights(model, format=source)).source == source
        jax.tree.map(np.testing.assert_array_equal, params_of(fresh), params_of(model))
    with pytest.raises(ValueError, match=r"torchvision has no ConvNeXt with head_norm_eps=1e-12"):
        extract_weights(abstract(head_norm_eps=1e-12), format="torchvision")
    fresh = abstract(head_norm_eps=1e-12)
    nnx.update(fresh, params_of(model))
    weights = extract_weights(fresh, format="hf")
    report = assign_weights(abstract(), weights)
    assert report.source == "hf"
    assert report.notes == ("the model has head_norm_eps=1e-06, hf usually 1e-12",)


def test_drop_path_rises_over_all_stages():
    model = abstract(drop_path_rate=0.2)
    assert [stage.drop_path_rates for stage in model.stages] == [(0.0,), (0.1, 0.2)]
    with pytest.raises(ValueError, match="drop path is active"):
        jax.eval_shape(lambda m: m(IMAGES, train=True), model)


def test_initial_values():
    model = build()
    for kernel in (
        model.stages[1].blocks.conv.kernel,
        model.stages[1].downsample.proj.kernel,
        model.stages[1].blocks.mlp.fc2.kernel,
    ):
        assert float(kernel[...].std()) == pytest.approx(0.02, rel=0.1)


def test_config_messages():
    with pytest.raises(ValueError, match=r"must name the same stages, got \(1, 2\) and \(8,\)"):
        ConvNeXtConfig(**{**TINY, "stage_widths": (8,)})
    with pytest.raises(ValueError, match="dropout_rate is a probability"):
        ConvNeXtConfig(**{**TINY, "dropout_rate": 1.5})
