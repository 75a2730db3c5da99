import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.models.deit import DeiTConfig
from jaxvision.models.vit import ViT, ViTConfig

TINY = {"width": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "image_size": 16}
IMAGES = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))


def build(**overrides):
    return ViT(ViTConfig(**{**TINY, "num_classes": 5, **overrides}), rngs=nnx.Rngs(0))


def run(model, images=IMAGES):
    return jax.jit(lambda model, images: model(images))(model, images)


def test_names_of_the_parameters():
    model = nnx.eval_shape(lambda: build(scan=False, layer_scale_init=0.1))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert set(params) == {"patch_embed", "cls_token", "pos_embed", "blocks", "norm", "head"}
    block = {"norm1", "attn", "layer_scale1", "norm2", "mlp", "layer_scale2"}
    assert set(params["blocks"]) == {0, 1} and set(params["blocks"][0]) == block
    assert set(params["blocks"][0]["attn"]) == {"query", "key", "value", "out"}
    assert params["patch_embed"]["kernel"].shape == (4, 4, 3, 16)
    stacked = nnx.to_pure_dict(nnx.state(nnx.eval_shape(build), nnx.Param))["blocks"]
    assert stacked["attn"]["query"]["kernel"].shape == (2, 16, 16)


def test_features_and_pooling():
    model = build()
    tokens = model.features(IMAGES)
    assert tokens.shape == (2, 17, 16)
    np.testing.assert_allclose(model(IMAGES), model.head(tokens[:, 0]), atol=1e-6)
    np.testing.assert_allclose(tokens.mean(-1), 0.0, atol=1e-5)  # after the norm
    model = build(pool="average")
    pooled = model.norm(model.features(IMAGES)[:, 1:].mean(1))
    np.testing.assert_allclose(model(IMAGES), model.head(pooled), atol=1e-6)


def test_the_norm_before_the_average():
    model = build(pool="average", fc_norm=False, class_token=False)
    tokens = model.features(IMAGES)
    np.testing.assert_allclose(tokens.mean(-1), 0.0, atol=1e-5)
    np.testing.assert_allclose(model(IMAGES), model.head(tokens.mean(1)), atol=1e-6)


def test_pooler():
    model, plain = build(pooler=True), build(pooler=True, num_classes=0)
    pooled = jnp.tanh(model.pooler(model.features(IMAGES)[:, 0]))
    np.testing.assert_allclose(model(IMAGES), model.head(pooled), atol=1e-6)
    np.testing.assert_allclose(plain(IMAGES), pooled, atol=1e-6)


def test_a_hidden_layer_in_the_head_and_its_two_dropouts():
    rates = {"head_dropout_rate": 0.5, "head_hidden_dropout_rate": 0.3}
    model = build(head_hidden=64, **rates)
    token = model.features(IMAGES)[:, 0]
    assert model.head_hidden.kernel.shape == (16, 64) and model.head.kernel.shape == (64, 5)
    expected = model.head(nnx.relu(model.head_hidden(token)))
    np.testing.assert_allclose(model(IMAGES), expected, atol=1e-6)

    # What is dropped before and behind the hidden layer shows where both maps are the identity.
    model = build(head_hidden=16, num_classes=16, **rates)
    for layer in (model.head_hidden, model.head):
        layer.kernel[...] = jnp.eye(16)
    ones = jnp.ones((4000, 17, 16))
    logits = model.classify(ones, train=True, rngs=nnx.Rngs(dropout=0))
    values, counts = np.unique(np.asarray(logits), return_counts=True)
    np.testing.assert_allclose(values, [0.0, 2 / 0.7], rtol=1e-6)
    assert counts[1] / counts.sum() == pytest.approx(0.5 * 0.7, abs=0.01)


@pytest.mark.parametrize("option", [{"pooler": True}, {"head_hidden": 3}])
def test_two_heads_have_none_of_this(option):
    with pytest.raises(ValueError, match="belong to one head"):
        DeiTConfig(**TINY, **option)


def test_attention_maps_reproduce_the_features():
    for scan in (False, True):
        model = build(scan=scan, local_window=3)
        maps = jax.jit(lambda model: model.attention_maps(IMAGES))(model)
        assert maps.shape == (2, 2, 2, 17, 17)
        np.testing.assert_allclose(maps.sum(-1), 1.0, atol=1e-5)
    # The first block's map, computed outside of the model.
    tokens = build(depth=1, scan=False)
    block = tokens.blocks[0]
    embedded, _, _ = tokens._embed(IMAGES, train=False, rngs=None)
    weights = block.attn.weights(block.norm1(embedded))
    np.testing.assert_allclose(tokens.attention_maps(IMAGES)[0], weights, atol=1e-6)


def test_local_window_masks_patches_but_not_the_class_token():
    maps = build(local_window=3).attention_maps(IMAGES)[0, 0, 0]
    seen = np.asarray(maps > 0)
    assert seen[0].all() and seen[:, 0].all()
    counts = seen[1:, 1:].sum(1).reshape(4, 4)
    np.testing.assert_array_equal(counts[0], [4, 6, 6, 4])
    np.testing.assert_array_equal(counts[1], [6, 9, 9, 6])
    full, wide = run(build()), run(build(local_window=7))
    np.testing.assert_allclose(full, wide, atol=1e-6)


def test_permuting_patches_and_positions_changes_nothing():
    model = build()
    # Initial kernels and positions are too small for the order to show.
    nnx.update(model, jax.tree.map(lambda leaf: 10 * leaf, nnx.state(model, nnx.Param)))
    order = np.random.default_rng(0).permutation(16)
    patches = IMAGES.reshape(2, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 16, 4, 4, 3)
    shuffled = patches[:, order].reshape(2, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    shuffled = shuffled.reshape(2, 16, 16, 3)
    expected = run(model)
    assert not np.allclose(run(model, shuffled), expected, atol=1e-3)
    pos = model.pos_embed[...]
    model.pos_embed[...] = jnp.concatenate([pos[:, :1], pos[:, 1:][:, order]], axis=1)
    np.testing.assert_allclose(run(model, shuffled), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("position", ["learned", "sincos2d"])
def test_other_sizes_at_the_call(position):
    model = build(position=position)
    assert (model.pos_embed is None) == (position == "sincos2d")
    images = jax.random.normal(jax.random.key(1), (2, 24, 8, 3))
    assert model.features(images).shape == (2, 13, 16)
    with pytest.raises(ValueError, match="does not divide into patches of 4"):
        model(images[:, :22])


def test_a_model_built_for_the_size_equals_the_resized_one():
    model = build(position="sincos2d")
    images = jax.random.normal(jax.random.key(1), (2, 24, 8, 3))
    other = build(position="sincos2d", image_size=(24, 8))
    np.testing.assert_array_equal(run(model, images), run(other, images))
    assert build(image_size=(24, 8)).pos_embed.shape == (1, 13, 16)


def test_conv_stem():
    model = build(stem="conv")
    assert run(model).shape == (2, 5)
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    before = jax.tree.leaves(nnx.to_pure_dict(stats))
    model(IMAGES, train=True)
    after = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    assert len(before) == 4 and not any(
        np.allclose(x, y) for x, y in zip(before, after, strict=True)
    )


def test_zero_init_head_starts_at_zero():
    assert not run(build(zero_init_head=True)).any()


def test_initial_values():
    model = build(width=64, depth=4)
    assert float(model.blocks.mlp.fc1.kernel[...].std()) == pytest.approx(0.02, rel=0.03)
    assert float(model.pos_embed[...].std()) == pytest.approx(0.02, rel=0.1)
    assert float(jnp.abs(model.cls_token[...]).max()) < 1e-5
    assert not model.blocks.attn.query.bias[...].any()
    assert float(model.patch_embed.kernel[...].std()) == pytest.approx(48**-0.5, rel=0.1)


def test_reference_equals_fused():
    np.testing.assert_allclose(run(build()), run(build(attention="reference")), atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pool": "max"}, "pool must be one of token, average, attention, got 'max'"),
        ({"class_token": False}, "pool='token' needs class_token=True"),
        ({"position": "rotary"}, "position must be one of"),
        ({"stem": "resnet"}, "stem must be one of"),
        ({"image_size": 18}, "18 x 18 pixels does not divide into patches of 4"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate is a probability .* got 1.0"),
        ({"attention": "flash"}, "attention must be"),
    ],
)
def test_config_messages(overrides, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**{**TINY, **overrides})
