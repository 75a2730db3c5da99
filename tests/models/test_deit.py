import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.models.deit import DeiT, DeiTConfig
from jaxvision.models.vit import ViT, ViTConfig

TINY = {"width": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "image_size": 16}
IMAGES = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))


def build(**overrides):
    return DeiT(DeiTConfig(**{**TINY, "num_classes": 5, **overrides}), rngs=nnx.Rngs(0))


def third(**overrides):
    options = {"layer_scale_init": 1e-6, "class_token_position": False, "num_classes": 5}
    return ViT(ViTConfig(**{**TINY, **options, **overrides}), rngs=nnx.Rngs(0))


def test_the_call_is_the_mean_of_both_heads():
    model = build()
    tokens = model.features(IMAGES)
    assert tokens.shape == (2, 18, 16) and model.pos_embed.shape == (1, 18, 16)
    left, right = model.heads(IMAGES)
    np.testing.assert_allclose(left, model.head(tokens[:, 0]), atol=1e-6)
    np.testing.assert_allclose(right, model.head_dist(tokens[:, 1]), atol=1e-6)
    np.testing.assert_allclose(model(IMAGES), (left + right) / 2, atol=1e-6)
    assert float(jnp.abs(left - right).max()) > 1e-3


def test_training_gives_one_array_and_reaches_both_heads():
    model = build(drop_path_rate=0.5, dropout_rate=0.1)
    rngs = {"train": True, "rngs": nnx.Rngs(dropout=0)}
    assert model(IMAGES, **rngs).shape == (2, 5)
    assert [logits.shape for logits in model.heads(IMAGES, **rngs)] == [(2, 5), (2, 5)]
    with pytest.raises(ValueError, match="rngs is None"):
        model.heads(IMAGES, train=True)


def test_without_heads_the_tokens_are_averaged():
    model = build(num_classes=0)
    assert model.head is None and model.head_dist is None
    np.testing.assert_allclose(model(IMAGES), model.features(IMAGES)[:, :2].mean(1), atol=1e-6)
    with pytest.raises(ValueError, match="needs both heads"):
        model.heads(IMAGES)


def test_one_head():
    model = build(distillation_head=False)
    assert model.head_dist is None and model.dist_token is not None
    np.testing.assert_allclose(model(IMAGES), model.head(model.features(IMAGES)[:, 0]), atol=1e-6)
    with pytest.raises(ValueError, match="distillation_head=True"):
        model.heads(IMAGES)


def test_other_sizes_and_maps():
    model = build()
    images = jax.random.normal(jax.random.key(1), (1, 24, 8, 3))
    assert model.features(images).shape == (1, 14, 16)
    assert model.pyramid(images)[4].shape == (1, 6, 2, 16)
    np.testing.assert_array_equal(
        model.pyramid(images)[4].reshape(1, 12, 16), model.features(images)[:, 2:]
    )
    maps = model.attention_maps(IMAGES)
    assert maps.shape == (1, 2, 2, 18, 18)
    local = build(local_window=3).attention_maps(IMAGES)[0, 0, 0]
    assert bool((local[:2] > 0).all()) and bool((local[:, :2] > 0).all())


@pytest.mark.parametrize("build", [build, third])
def test_fixed_positions_leave_the_first_tokens_alone(build):
    model = build(position="sincos2d")
    prefix = model.config.num_prefix_tokens
    positions = model._positions(4, 4)
    assert positions.shape == (1, 16 + prefix, 16) and not positions[:, :prefix].any()


def test_the_class_token_of_deit_3_has_no_position():
    model = third()
    assert model.pos_embed.shape == (1, 16, 16)
    assert model.config.num_prefix_tokens == 1 and model.config.num_prefix_positions == 0
    tokens, _, _ = model._embed(IMAGES, train=False, rngs=None)
    np.testing.assert_array_equal(tokens[0, 0], model.cls_token[0, 0])
    images = jax.random.normal(jax.random.key(1), (1, 24, 8, 3))
    assert model.features(images).shape == (1, 13, 16)


def test_deit_3_starts_close_to_the_identity():
    model = third()
    tokens, _, _ = model._embed(IMAGES, train=False, rngs=None)
    np.testing.assert_allclose(model.features(IMAGES), model.norm(tokens), atol=1e-4)


def test_rows():
    third = jv.get_spec("deit3_huge_patch14_224").config
    assert (third.layer_scale_init, third.class_token_position) == (1e-6, False)
    assert jv.get_spec("deit_small_patch16_224").build is ViT
    assert jv.get_spec("deit_small_distilled_patch16_224").build is DeiT
    assert jv.get_spec("deit_base_distilled_patch16_384").image_size == 384
    assert jv.list_models("deit_s16*") == ["deit_s16", "deit_s16_distilled"]


def test_config_messages():
    with pytest.raises(ValueError, match="pool must be 'token', got 'average'"):
        DeiTConfig(**TINY, pool="average")
