import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.models.pvt_v2 import PVTv2, PVTv2Config

TINY = {
    "stage_depths": (1, 2),
    "stage_widths": (8, 32),
    "stage_heads": (1, 2),
    "mlp_ratios": (2, 3),
    "reduction_ratios": (2, 1),
    "num_classes": 5,
}
IMAGES = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))


@functools.cache
def build(**overrides):
    # Compiled as one program: drawing the values one by one takes ten times as long.
    return nnx.jit(lambda: PVTv2(PVTv2Config(**{**TINY, **overrides}), rngs=nnx.Rngs(0)))()


def abstract(**overrides):
    return nnx.eval_shape(lambda: PVTv2(PVTv2Config(**{**TINY, **overrides}), rngs=nnx.Rngs(0)))


def params_of(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@jax.jit
def run(model, images):
    """Returns what the three calls return, as one program."""
    return model(images), model.features(images), model.pyramid(images)


def test_names_of_the_parameters():
    params = params_of(abstract(scan=False))
    assert set(params) == {"stages", "head"}
    first, last = params["stages"][0], params["stages"][1]
    assert set(first) == set(last) == {"patch_embed", "blocks", "norm"}
    assert set(first["blocks"][0]) == {"norm1", "reduction", "attn", "norm2", "mlp"}
    assert set(last["blocks"][1]) == {"norm1", "attn", "norm2", "mlp"}
    assert last["blocks"][0]["mlp"]["conv"]["kernel"].shape == (3, 3, 1, 96)
    linear = params_of(abstract(linear_attention=True))["stages"]
    assert linear[0]["blocks"]["reduction"]["proj"]["kernel"].shape == (1, 1, 1, 8, 8)
    assert "reduction" in linear[1]["blocks"]


def test_maps_as_published():
    model = nnx.eval_shape(lambda: jv.create_model("pvt_v2_b2", rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    maps = jax.eval_shape(lambda model, images: model.pyramid(images), model, images)
    shapes = {stride: grid.shape[1:] for stride, grid in maps.items()}
    assert shapes == {4: (56, 56, 64), 8: (28, 28, 128), 16: (14, 14, 320), 32: (7, 7, 512)}


def test_features_are_normalised_and_averaged():
    model = build()
    logits, features, maps = run(model, IMAGES)
    assert features.shape == (2, 8, 8, 32)
    np.testing.assert_array_equal(maps[8], features)
    np.testing.assert_allclose(maps[4].mean(-1), 0.0, atol=1e-5)
    np.testing.assert_allclose(features.mean(-1), 0.0, atol=1e-5)
    np.testing.assert_allclose(logits, model.head(features.mean((1, 2))), atol=1e-6)


@pytest.mark.parametrize("linear", [False, True])
def test_any_size_that_the_reduction_fits_into(linear):
    model = abstract(linear_attention=linear, reduction_ratios=(4, 1))
    shape = jax.eval_shape(lambda m: m(jnp.zeros((1, 17, 14, 3))), model).shape
    assert shape == (1, 5)
    if not linear:
        with pytest.raises(ValueError, match="map of 3 x 5 pixels holds no patch of 4 x 4"):
            jax.eval_shape(lambda m: m(jnp.zeros((1, 12, 20, 3))), model)


def test_zeros_around_the_map_tell_where_a_token_is():
    """v2 has no positions: only the padding can tell equal patches apart."""
    maps = run(build(), jnp.ones_like(IMAGES))[2][4][0]
    np.testing.assert_allclose(maps[7, 7], maps[8, 8], atol=1e-5)
    assert float(jnp.abs(maps[0, 0] - maps[7, 7]).max()) > 1e-2


def test_timm_and_transformers_are_told_apart():
    model = build()
    weights = extract_weights(model, format="timm")
    fresh = abstract()
    assert assign_weights(fresh, weights).source == "timm"
    jax.tree.map(np.testing.assert_array_equal, params_of(fresh), params_of(model))
    with pytest.raises(ValueError, match="no PVTv2 with projection_norm_eps=1e-05: build the mod"):
        extract_weights(model, format="hf")
    fresh = abstract(projection_norm_eps=1e-6)
    nnx.update(fresh, params_of(model))
    weights = extract_weights(fresh, format="hf")
    assert assign_weights(abstract(projection_norm_eps=1e-6), weights).source == "hf"


def test_drop_path_rises_over_all_stages():
    model = abstract(drop_path_rate=0.2)
    assert [stage.drop_path_rates for stage in model.stages] == [(0.0,), (0.1, 0.2)]


def test_initial_values():
    stage = build().stages[1]
    assert float(stage.blocks.mlp.fc1.kernel[...].std()) == pytest.approx(0.02, rel=0.1)
    depthwise = float(stage.blocks.mlp.conv.kernel[...].std())
    assert depthwise == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    embed = float(stage.patch_embed.proj.kernel[...].std())
    assert embed == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mlp_ratios": (8,)}, r"one value of every kind, got .*mlp_ratios=\(8,\)"),
        ({"attention": "flash"}, "attention must be"),
        ({"drop_path_rate": -0.1}, "drop_path_rate is a probability"),
    ],
)
def test_config_messages(overrides, message):
    with pytest.raises(ValueError, match=message):
        PVTv2Config(**{**TINY, **overrides})
