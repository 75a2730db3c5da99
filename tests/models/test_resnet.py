import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.layers.pool import max_pool
from jaxvision.models.resnet import ResNet, ResNetConfig

IMAGES = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))


def config(**overrides):
    tiny = {"block": "basic", "stage_depths": (1, 2), "stage_widths": (8, 16), "stem_width": 8}
    return ResNetConfig(**{**tiny, "num_classes": 5, **overrides})


def build(**overrides):
    return ResNet(config(**overrides), rngs=nnx.Rngs(0))


def num_params(module):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("resnet50", [9_536, 215_808, 1_219_584, 7_098_368, 14_964_736, 2_049_000]),
        ("resnet18", [9_536, 147_968, 525_568, 2_099_712, 8_393_728, 513_000]),
    ],
)
def test_num_params_by_stage(name, counts):
    model = nnx.eval_shape(lambda: jv.create_model(name, rngs=nnx.Rngs(0)))
    assert [num_params(part) for part in (model.stem, *model.stages, model.head)] == counts


def test_layout_of_resnet50():
    model = nnx.eval_shape(lambda: jv.create_model("resnet50", rngs=nnx.Rngs(0)))

    def maps(model):
        outputs = model.stem(jnp.zeros((1, 224, 224, 3)))
        yield outputs
        outputs = max_pool(outputs, kernel_size=3, stride=2, padding=1)
        for blocks in model.stages:
            for block in blocks:
                outputs = block(outputs)
            yield outputs

    shapes = [array.shape[1:] for array in jax.eval_shape(lambda model: list(maps(model)), model)]
    assert shapes == [(112, 112, 64), (56, 56, 256), (28, 28, 512), (14, 14, 1024), (7, 7, 2048)]
    features = jax.eval_shape(lambda model: model.features(jnp.zeros((1, 224, 224, 3))), model)
    assert features.shape == (1, 7, 7, 2048)


def test_names_of_the_parameters():
    model = nnx.eval_shape(lambda: build(block="bottleneck"))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert set(params) == {"stem", "stages", "head"}
    assert set(params["stages"][1]) == {0, 1}
    body = {"conv1", "norm1", "conv2", "norm2", "conv3", "norm3"}
    assert set(params["stages"][1][0]) == body | {"downsample"}
    assert set(params["stages"][1][1]) == body
    assert set(params["stem"]) == {"conv", "norm"}


def test_a_block_starts_as_the_identity():
    model = build()
    block = model.stages[1][1]
    inputs = jnp.abs(jax.random.normal(jax.random.key(1), (2, 4, 4, 16)))
    np.testing.assert_array_equal(block(inputs, train=True), inputs)
    other = build(zero_init_last=False).stages[1][1]
    assert not np.allclose(other(inputs, train=True), inputs)


def test_the_stride_is_in_the_3x3():
    block = build(block="bottleneck").stages[1][0]
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == (1, 2, 1)


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 2), ("cifar", 8)])
def test_stems(stem, side):
    assert build(stem=stem).features(IMAGES).shape == (2, side, side, 16)


def test_three_stages_of_own_width():
    overrides = {"stage_depths": (1, 1, 1), "stage_widths": (64, 128, 256), "stem": "cifar"}
    model = nnx.eval_shape(lambda: build(**overrides))
    assert jax.eval_shape(lambda model: model.features(IMAGES), model).shape == (2, 4, 4, 256)


def test_plain_has_no_shortcuts():
    plain, residual = build(plain=True), build()
    assert all(block.downsample is None for blocks in plain.stages for block in blocks)
    assert num_params(plain) < num_params(residual)
    block = plain.stages[1][1]
    inputs = jnp.abs(jax.random.normal(jax.random.key(1), (2, 4, 4, 16)))
    outputs = block(inputs, train=True)
    assert float(outputs.max()) > 0 and not np.allclose(outputs, inputs)
    # Without a shortcut the input's scale is lost in the first batch norm.
    np.testing.assert_allclose(block(10 * inputs, train=True), outputs, atol=1e-3)


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_resnet56"])
def test_a_plain_net_for_cifar_has_the_parameters_of_the_residual_one(name):
    counts = {
        plain: num_params(
            nnx.eval_shape(lambda plain=plain: jv.create_model(name, rngs=nnx.Rngs(0), plain=plain))
        )
        for plain in (False, True)
    }
    assert counts[False] == counts[True] == jv.get_spec(name).num_params


def test_zero_padding_keeps_every_second_pixel():
    block = build(shortcut="zero_padding").stages[1][0]
    inputs = jnp.abs(jax.random.normal(jax.random.key(1), (2, 5, 4, 8)))
    outputs = block(inputs, train=True)  # the branch starts at 0
    assert outputs.shape == (2, 3, 2, 16)
    np.testing.assert_array_equal(outputs[..., 4:12], inputs[:, ::2, ::2])
    assert not outputs[..., :4].any() and not outputs[..., 12:].any()


def test_drop_path_rises_over_all_blocks():
    model = build(drop_path_rate=0.4)
    rates = [block.drop_path_rate for blocks in model.stages for block in blocks]
    np.testing.assert_allclose(rates, [0.0, 0.2, 0.4])


def test_norm_options_reach_every_norm():
    model = build(norm_eps=1e-3, norm_momentum=0.01, block="bottleneck")
    block = model.stages[0][0]
    norms = [model.stem.norm, block.norm1, block.norm2, block.norm3, block.downsample.norm]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"block": "dense"}, "block must be one of basic, bottleneck, got 'dense'"),
        ({"stem": "none"}, "stem must be one of"),
        ({"stage_depths": (1, 1, 1)}, "must name the same stages"),
        ({"shortcut": "none"}, "shortcut must be one of projection, zero_padding"),
        ({"shortcut": "zero_padding", "stem_width": 12}, r"must not fall, got 12 and \(8, 16\)"),
        ({"groups": 2}, "need block='bottleneck'"),
        ({"plain": True, "drop_path_rate": 0.1}, "set drop_path_rate=0"),
        ({"dropout_rate": -0.1}, "dropout_rate is a probability"),
    ],
)
def test_config_messages(overrides, message):
    with pytest.raises(ValueError, match=message):
        config(**overrides)
