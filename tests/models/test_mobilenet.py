"""MobileNet V1, V2, V3 and EfficientNet: what the conformance tests do not say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.models.efficientnet import EfficientNetConfig
from jaxvision.models.mobilenet import Block, BlockRow
from jaxvision.models.mobilenet_v1 import MobileNetV1Config
from jaxvision.models.mobilenet_v2 import MobileNetV2Config

STRIDES = (2, 4, 8, 16, 32)
IMAGES = jax.random.normal(jax.random.key(0), (2, 32, 16, 3))
ROWS = (BlockRow(channels=8), BlockRow(channels=16, expansion=2, stride=2, repeats=3))


def abstract(name, **overrides):
    return nnx.eval_shape(lambda: jv.create_model(name, rngs=nnx.Rngs(0), **overrides))


def num_params(module):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def table(name):
    """Returns (kernel, out channels, blocks, first stride) of every stage."""
    stages = jv.get_spec(name).config.stages()
    return [(s[0].kernel_size, s[-1].out_channels, len(s), s[0].stride) for s in stages]


def test_efficientnet_b0_is_the_papers_table():
    assert table("efficientnet_b0") == [
        (3, 16, 1, 1),
        (3, 24, 2, 2),
        (5, 40, 2, 2),
        (3, 80, 3, 2),
        (5, 112, 3, 1),
        (5, 192, 4, 2),
        (3, 320, 1, 1),
    ]


@pytest.mark.parametrize(
    ("name", "count", "widest"),
    [
        ("mobilenet_v1", 13, 1024),
        ("mobilenet_v2", 17, 960),
        ("mobilenet_v3_large", 15, 960),
        ("mobilenet_v3_small", 11, 576),
        ("efficientnet_b0", 16, 1152),
        ("efficientnet_b7", 55, 3840),
        ("efficientnet_lite4", 30, 1632),
    ],
)
def test_blocks(name, count, widest):
    blocks = sum(jv.get_spec(name).config.stages(), [])
    assert len(blocks) == count
    assert max(block.expanded_channels for block in blocks) == widest
    for one, next_one in zip(blocks, blocks[1:], strict=False):
        assert one.out_channels == next_one.in_channels


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        (
            "mobilenet_v3_large",
            [16, 64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960],
        ),
        ("mobilenet_v3_small", [16, 72, 88, 96, 240, 240, 120, 144, 288, 576, 576]),
    ],
)
def test_expanded_sizes_of_mobilenet_v3(name, inside):
    blocks = sum(jv.get_spec(name).config.stages(), [])
    assert [block.expanded_channels for block in blocks] == inside


def test_squeeze_is_a_quarter_of_the_input_or_of_the_inside():
    efficientnet = sum(jv.get_spec("efficientnet_b0").config.stages(), [])
    assert [b.squeezed_channels for b in efficientnet[:5]] == [8, 4, 6, 6, 10]
    large = sum(jv.get_spec("mobilenet_v3_large").config.stages(), [])
    assert [b.squeezed_channels for b in large[3:6]] == [24, 32, 32]  # of 72 and 120
    assert large[-1].squeezed_channels == 240 and large[0].squeezed_channels == 0


@pytest.mark.parametrize(
    ("name", "channels", "features"),
    [
        ("mobilenet_v1", [64, 128, 256, 512, 1024], 1024),
        ("mobilenet_v2", [16, 24, 32, 96, 320], 1280),
        ("mobilenet_v3_large", [16, 24, 40, 112, 960], 960),
        ("mobilenet_v3_small", [16, 16, 24, 48, 576], 576),
        ("efficientnet_b0", [16, 24, 40, 112, 320], 1280),
        ("tf_efficientnet_lite2", [16, 24, 48, 120, 352], 1280),
    ],
)
def test_pyramid(name, channels, features):
    model, images = abstract(name), jax.ShapeDtypeStruct((1, 65, 96, 3), "float32")
    maps = jax.eval_shape(lambda m, x: m.pyramid(x), model, images)
    expected = {s: (1, -(-65 // s), -(-96 // s), c) for s, c in zip(STRIDES, channels, strict=True)}
    assert {stride: grid.shape for stride, grid in maps.items()} == expected
    last = jax.eval_shape(lambda m, x: m.features(x), model, images)
    assert last.shape == (1, 3, 3, features)


@pytest.mark.parametrize(
    ("name", "overrides", "count"),
    [
        ("efficientnet_b0", {"num_classes": 10}, 4_020_358),
        ("efficientnet_b0", {"width": 1.4, "depth": 1.8}, 19_341_616),
        ("mobilenet_v3_large", {"num_classes": 0}, 4_202_032),
        ("mobilenet_v2", {"width": 0.5}, 1_968_680),
    ],
)
def test_num_params_of_overrides(name, overrides, count):
    assert num_params(abstract(name, **overrides)) == count


def test_a_separable_convolution_costs_a_ninth_and_a_bit():
    model = abstract("mobilenet_v1")
    block = model.stages[1][0]  # 64 channels to 128
    separable = block.depthwise.conv.kernel.size + block.project.conv.kernel.size
    assert separable / (9 * 64 * 128) == pytest.approx(1 / 128 + 1 / 9)


def test_names_of_the_parameters():
    params = nnx.to_pure_dict(nnx.state(abstract("mobilenet_v3_small"), nnx.Param))
    assert set(params) == {"stem", "stages", "last_conv", "hidden", "head"}
    first, second = params["stages"][0][0], params["stages"][1][0]
    assert set(first) == {"depthwise", "squeeze_excite", "project"}
    assert set(second) == {"expand", "depthwise", "project"}
    assert set(first["squeeze_excite"]) == {"reduce", "expand"}


@pytest.mark.parametrize(
    ("name", "eps", "momentum", "padding"),
    [
        ("mobilenet_v3_large", 1e-3, 0.01, "symmetric"),
        ("mobilenetv3_large_100", 1e-5, 0.1, "symmetric"),
        ("tf_mobilenetv3_large_100", 1e-3, 0.1, "same"),
        ("efficientnet_b4", 1e-5, 0.1, "symmetric"),
        ("efficientnet_b5", 1e-3, 0.01, "symmetric"),
        ("tf_efficientnet_b5", 1e-3, 0.1, "same"),
        ("efficientnet_lite0", 1e-5, 0.1, "symmetric"),
    ],
)
def test_numbers_of_the_libraries(name, eps, momentum, padding):
    model = abstract(name)
    block = model.stages[1][0]
    for part in (model.stem, block.expand, block.depthwise, block.project, model.last_conv):
        assert (part.norm.eps, part.norm.momentum, part.conv.padding) == (eps, momentum, padding)


def test_rates():
    rates = [jv.get_spec(f"efficientnet_b{i}").config.dropout_rate for i in range(8)]
    assert rates == [0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5]
    model = abstract("efficientnet_b0", drop_path_rate=0.16)
    blocks = [block for stage in model.stages for block in stage]
    np.testing.assert_allclose([b.drop_path_rate for b in blocks], np.arange(16) / 100)


@pytest.mark.parametrize(
    ("name", "rate"), [("mobilenet_v2", "dropout_rate"), ("mobilenet_v3_small", "drop_path_rate")]
)
def test_rates_act_in_training_only(name, rate):
    options = {"rows": ROWS, "stem_width": 8, "last_width": 16, "num_classes": 3, rate: 0.5}
    model = jv.create_model(name, rngs=nnx.Rngs(0), **{"dropout_rate": 0.0, **options})
    np.testing.assert_array_equal(model(IMAGES), model(IMAGES))

    def train(key):
        return nnx.clone(model)(IMAGES, train=True, rngs=nnx.Rngs(dropout=key))

    assert bool(jnp.any(train(1) != train(2)))
    with pytest.raises(ValueError, match="rngs is None: pass rngs=nnx.Rngs"):
        model(IMAGES, train=True)


def test_initial_values():
    rows = (BlockRow(channels=96, expansion=6, kernel_size=5),)
    options = {"rows": rows, "last_width": 576, "hidden_width": 1024, "num_classes": 400}
    model = jv.create_model("mobilenet_v3_small", rngs=nnx.Rngs(0), **options, stem_width=96)
    block = model.stages[0][0]
    deviation = lambda parameter: float(parameter[...].std())  # noqa: E731
    channels = block.depthwise.conv.kernel.shape[-1]
    assert deviation(block.depthwise.conv.kernel) == pytest.approx((2 / 25) ** 0.5, rel=0.05)
    assert deviation(block.expand.conv.kernel) == pytest.approx((2 / channels) ** 0.5, rel=0.05)
    assert deviation(model.hidden.kernel) == pytest.approx((2 / 1024) ** 0.5, rel=0.02)
    assert deviation(model.head.kernel) == pytest.approx(0.01, rel=0.02)


def test_rows_of_as_many_channels_are_one_stage_if_their_blocks_are_of_one_kind():
    rows = (
        BlockRow(channels=8),
        BlockRow(channels=8, expansion=3),
        BlockRow(channels=8, expansion=4, repeats=2),
        BlockRow(channels=8, expansion=4, squeeze=True),
    )
    stages = EfficientNetConfig(rows=rows).stages()
    assert [[b.expanded_channels for b in stage] for stage in stages] == [[32], [24, 32, 32], [32]]
    assert stages[1][0] == Block(
        in_channels=8,
        expanded_channels=24,
        out_channels=8,
        kernel_size=3,
        stride=1,
        squeezed_channels=0,
        activation="silu",
    )


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        (MobileNetV2Config, {"activation": "relu7"}, "activation must be one of .*'relu7'"),
        (
            MobileNetV2Config,
            {"rows": (BlockRow(channels=8, activation="tanh"),)},
            "activation must be one of .*'tanh'",
        ),
        (MobileNetV2Config, {"padding": "SAME"}, "padding must be one of symmetric, same"),
        (MobileNetV2Config, {"width": 0.0}, "needs a width above 0"),
        (MobileNetV2Config, {"rows": ()}, "at least one row"),
        (MobileNetV2Config, {"rows": (BlockRow(channels=8, squeeze=True),)}, "no squeeze"),
        (MobileNetV1Config, {"rows": ROWS}, "neither expansion nor squeeze"),
        (MobileNetV1Config, {"drop_path_rate": 0.1}, "set drop_path_rate=0"),
        (EfficientNetConfig, {"depth": -1.0}, "needs a depth above 0"),
        (EfficientNetConfig, {"dropout_rate": 1.0}, "dropout_rate is a probability"),
    ],
)
def test_config_messages(config, overrides, message):
    with pytest.raises(ValueError, match=message):
        config(**overrides)
