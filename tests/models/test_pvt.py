import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.models.pvt import PVT, PVTConfig

TINY = {
    "stage_depths": (1, 2),
    "stage_widths": (8, 32),
    "stage_heads": (1, 2),
    "mlp_ratios": (2, 3),
    "reduction_ratios": (2, 1),
    "image_size": 16,
    "num_classes": 5,
}
IMAGES = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))


@functools.cache
def build(**overrides):
    # Compiled as one program: drawing the values one by one takes ten times as long.
    return nnx.jit(lambda: PVT(PVTConfig(**{**TINY, **overrides}), rngs=nnx.Rngs(0)))()


def abstract(**overrides):
    return nnx.eval_shape(lambda: PVT(PVTConfig(**{**TINY, **overrides}), rngs=nnx.Rngs(0)))


def params_of(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@jax.jit
def run(model, images):
    """Returns what the three calls return, as one program."""
    return model(images), model.features(images), model.pyramid(images)


def test_names_of_the_parameters():
    params = params_of(abstract(scan=False))
    assert set(params) == {"stages", "norm", "head"}
    first, last = params["stages"][0], params["stages"][1]
    assert set(first) == {"patch_embed", "patch_norm", "pos_embed", "blocks"}
    assert set(last) == {*first, "cls_token"}
    assert set(first["blocks"][0]) == {"norm1", "reduction", "attn", "norm2", "mlp"}
    assert set(last["blocks"][1]) == {"norm1", "attn", "norm2", "mlp"}
    assert first["pos_embed"].shape == (1, 16, 8) and last["pos_embed"].shape == (1, 5, 32)
    assert first["blocks"][0]["reduction"]["proj"]["kernel"].shape == (2, 2, 8, 8)
    assert last["blocks"][0]["mlp"]["fc1"]["kernel"].shape == (32, 96)
    assert params_of(abstract())["stages"][1]["blocks"]["attn"]["out"]["kernel"].shape[0] == 2


def test_maps_as_published():
    model = nnx.eval_shape(lambda: jv.create_model("pvt_tiny", rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    maps = jax.eval_shape(lambda model, images: model.pyramid(images), model, images)
    shapes = {stride: grid.shape[1:] for stride, grid in maps.items()}
    assert shapes == {4: (56, 56, 64), 8: (28, 28, 128), 16: (14, 14, 320), 32: (7, 7, 512)}
    tokens = jax.eval_shape(lambda model, images: model.features(images), model, images)
    assert tokens.shape == (1, 50, 512)


def test_the_head_reads_the_class_token_and_the_pyramid_the_others():
    model = build()
    logits, tokens, maps = run(model, IMAGES)
    np.testing.assert_allclose(tokens.mean(-1), 0.0, atol=1e-5)  # after the norm
    np.testing.assert_allclose(logits, model.head(tokens[:, 0]), atol=1e-6)
    np.testing.assert_array_equal(maps[8].reshape(2, 4, 32), tokens[:, 1:])


def test_other_sizes_are_those_of_resized_tables():
    model, wide = build(), abstract(image_size=(16, 32))
    tokens = jax.eval_shape(lambda model: model.features(jnp.zeros((1, 24, 40, 3))), model)
    assert tokens.shape == (1, 1 + 3 * 5, 32)
    weights = extract_weights(model, format="hf")
    report = assign_weights(wide, weights, source="hf", image_size=model.config.image_size)
    assert report.adapted == {
        "stages/0/pos_embed": "positions resized from 4 x 4 to 4 x 8, bilinear",
        "stages/1/pos_embed": "positions resized from 2 x 2 to 2 x 4, bilinear",
    }
    images = jax.random.normal(jax.random.key(1), (2, 16, 32, 3))
    np.testing.assert_allclose(run(model, images)[0], run(wide, images)[0], atol=1e-6)
    with pytest.raises(ValueError, match="16 x 28 pixels does not divide into patches of 8"):
        model(jnp.zeros((1, 16, 28, 3)))


def test_drop_path_rises_over_all_stages():
    model = abstract(drop_path_rate=0.2)
    assert [stage.drop_path_rates for stage in model.stages] == [(0.0,), (0.1, 0.2)]


def test_initial_values():
    stage = build().stages[1]
    for kernel in (stage.blocks.mlp.fc1.kernel, stage.patch_embed.kernel, stage.pos_embed):
        assert float(kernel[...].std()) == pytest.approx(0.02, rel=0.15)
    assert not stage.blocks.attn.query.bias[...].any()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stage_heads": (1, 2, 3)}, r"one value of every kind, got .*stage_heads=\(1, 2, 3\)"),
        ({"reduction_ratios": (2, 2)}, r"last of reduction_ratios must be 1.*got \(2, 2\)"),
        ({"image_size": 20}, "20 x 20 pixels does not divide into patches of 8"),
        ({"attention": "flash"}, "attention must be"),
        ({"dropout_rate": 1.0}, "dropout_rate is a probability"),
    ],
)
def test_config_messages(overrides, message):
    with pytest.raises(ValueError, match=message):
        PVTConfig(**{**TINY, **overrides})
