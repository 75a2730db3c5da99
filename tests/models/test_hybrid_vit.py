import jax
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.pool import max_pool
from jaxvision.models.hybrid_vit import HybridViT, HybridViTConfig

TINY = {
    "width": 16,
    "depth": 1,
    "num_heads": 2,
    "patch_size": 16,
    "image_size": 32,
    "stage_depths": (2, 1),
    "stage_widths": (8, 8),
    "stem_width": 8,
    "norm_groups": 4,
}
IMAGES = jax.random.normal(jax.random.key(0), (2, 32, 48, 3))


def build(**overrides):
    config = HybridViTConfig(**{**TINY, "num_classes": 5, **overrides})
    return HybridViT(config, rngs=nnx.Rngs(0))


def test_names_and_shapes_of_the_parameters():
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(build), nnx.Param))["patch_embed"]
    assert set(params) == {"stem", "stages", "proj"}
    first, second = params["stages"][0][0], params["stages"][0][1]
    assert "downsample" in first and "downsample" not in second
    assert "downsample" in params["stages"][1][0]
    assert params["stem"]["conv"]["kernel"].shape == (7, 7, 3, 8)
    assert first["conv3"]["kernel"].shape == (1, 1, 8, 32)
    assert params["proj"]["kernel"].shape == (2, 2, 32, 16)  # stride 8, so 16 pixels are 2


def test_a_token_for_each_patch():
    model = nnx.eval_shape(build)
    tokens, maps, logits, weights = jax.eval_shape(
        lambda m: (m.features(IMAGES), m.pyramid(IMAGES), m(IMAGES), m.attention_maps(IMAGES)),
        model,
    )
    assert tokens.shape == (2, 7, 16) and weights.shape == (1, 2, 2, 7, 7)
    assert maps[16].shape == (2, 2, 3, 16) and logits.shape == (2, 5)


def test_without_stages_the_stem_is_left():
    model = build(stage_depths=(), stage_widths=())
    assert model.config.stride == 4 and len(model.patch_embed.stages) == 0
    outputs = nnx.relu(model.patch_embed.stem(IMAGES))
    padded = np.pad(outputs, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    expected = model.patch_embed.proj(max_pool(jax.numpy.asarray(padded), kernel_size=3, stride=2))
    np.testing.assert_allclose(model.patch_embed(IMAGES), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"patch_size": 12, "image_size": 48}, "must be a multiple of 8, got 12"),
        ({"stage_widths": (8,)}, "must name the same stages"),
        ({"stem": "patch"}, "stem must be one of resnet, got 'patch'"),
        ({"image_size": 40}, "40 x 40 pixels does not divide into patches of 16"),
    ],
)
def test_config_messages(overrides, message):
    with pytest.raises(ValueError, match=message):
        HybridViTConfig(**{**TINY, **overrides})


def test_an_image_that_does_not_divide():
    with pytest.raises(ValueError, match="does not divide into patches of 16"):
        build()(IMAGES[:, :30])
    with pytest.raises(ValueError, match="do not divide into 3 groups"):
        build(norm_groups=3)
