"""MobileNets and EfficientNets against torchvision, timm and transformers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from parity import peers

from jaxvision.interop.assign import source_of
from jaxvision.interop.rules import expand, flatten
from jaxvision.models.mobilenet import BlockRow
from jaxvision.models.registry import create_model, get_spec

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
float64 = pytest.mark.float64

# PyTorch's modules drop nothing below either.
NO_DROPPING = {"dropout_rate": 0.0, "drop_path_rate": 0.0}
EVEN, RAGGED = (64, 32), (67, 42)  # 67 x 42, 34 x 21, 17 x 11, 9 x 6, 5 x 3

# Every kind of block: without expansion, with a shortcut, with both kernels and both strides.
ROWS = (
    BlockRow(expansion=1, channels=16),
    BlockRow(expansion=6, channels=24, stride=2, repeats=2),
    BlockRow(expansion=6, channels=40, kernel_size=5, stride=2, repeats=2),
)
SQUEEZING = tuple(dataclasses.replace(row, squeeze=True) for row in ROWS)
V3_ROWS = (
    BlockRow(channels=16, squeeze=True, activation="relu", stride=2),
    BlockRow(expansion=4.5, channels=24, activation="relu", stride=2),
    BlockRow(expansion=3, channels=24, activation="relu"),
    BlockRow(expansion=3, channels=40, kernel_size=5, squeeze=True, repeats=2),
)


def timm_mobile(kind, arch, **options):
    """Returns timm's class for V1, V2 and EfficientNet or the one for V3, with such blocks."""
    from timm.models import _efficientnet_builder, efficientnet, mobilenetv3

    cls = {"EfficientNet": efficientnet.EfficientNet, "MobileNetV3": mobilenetv3.MobileNetV3}[kind]
    layers = timm.layers
    if kind == "MobileNetV3":
        options["se_layer"] = functools.partial(
            efficientnet.SqueezeExcite,
            gate_layer="hard_sigmoid",
            force_act_layer=peers.torch.nn.ReLU,
            rd_round_fn=efficientnet.round_channels,
        )
    return cls(
        _efficientnet_builder.decode_arch_def(arch),
        num_classes=peers.CLASSES,
        act_layer=layers.get_act_layer(options.pop("activation")),
        norm_layer=functools.partial(peers.torch.nn.BatchNorm2d, eps=options.pop("eps", 1e-5)),
        **options,
    )


def timm_v1(**options):
    arch = [["dsa_r1_k3_s1_c16"], ["dsa_r2_k3_s2_c24"]]
    options = {"num_features": 0, "stem_size": 8, "activation": "relu6"} | options
    return timm_mobile("EfficientNet", arch, **options)


def timm_v2(squeeze="", **options):
    arch = [
        [f"ds_r1_k3_s1_e1_c16{squeeze}"],
        [f"ir_r2_k3_s2_e6_c24{squeeze}"],
        [f"ir_r2_k5_s2_e6_c40{squeeze}"],
    ]
    options = {"num_features": 48, "stem_size": 8, "activation": "relu6"} | options
    return timm_mobile("EfficientNet", arch, **options)


def timm_v3(**options):
    arch = [
        ["ds_r1_k3_s2_e1_c16_se0.25_nre"],
        ["ir_r1_k3_s2_e4.5_c24_nre", "ir_r1_k3_s1_e3_c24_nre"],
        ["ir_r2_k5_s1_e3_c40_se0.25"],
        ["cn_r1_k1_s1_c96"],
    ]
    options = {"num_features": 64, "stem_size": 16, "activation": "hard_swish"} | options
    return timm_mobile("MobileNetV3", arch, **options)


def timm_efficientnet(**options):
    return timm_v2("_se0.25", activation="silu", **options)


def torchvision_v2():
    rows = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 1]]
    return torchvision.models.MobileNetV2(
        num_classes=peers.CLASSES, inverted_residual_setting=rows, dropout=0.0
    )


def torchvision_v3():
    row = functools.partial(
        torchvision.models.mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=1.0
    )
    rows = [
        row(16, 3, 16, 16, True, "RE", 2),
        row(16, 3, 72, 24, False, "RE", 2),
        row(24, 3, 72, 24, False, "RE", 1),
        row(24, 5, 72, 40, True, "HS", 1),
        row(40, 5, 120, 40, True, "HS", 1),
    ]
    return torchvision.models.MobileNetV3(rows, 64, num_classes=peers.CLASSES, dropout=0.0)


def torchvision_efficientnet(**options):
    row = torchvision.models.efficientnet.MBConvConfig
    rows = [row(1, 3, 1, 8, 16, 1), row(6, 3, 2, 16, 24, 2), row(6, 5, 2, 24, 40, 2)]
    return torchvision.models.EfficientNet(
        rows, 0.0, stochastic_depth_prob=0.0, num_classes=peers.CLASSES, last_channel=48, **options
    )


def hf_v1():
    config = transformers.MobileNetV1Config(
        depth_multiplier=0.25, num_labels=peers.CLASSES, classifier_dropout_prob=0.0
    )
    return transformers.MobileNetV1ForImageClassification(config)


def hf_v2():
    config = transformers.MobileNetV2Config(
        depth_multiplier=0.35, num_labels=peers.CLASSES, classifier_dropout_prob=0.0
    )
    return transformers.MobileNetV2ForImageClassification(config)


def hf_efficientnet(**options):
    """Returns the class with our momentum: its own is 0.99, but 0.1 behind expansions."""
    config = transformers.EfficientNetConfig(
        num_labels=peers.CLASSES,
        dropout_rate=0.0,
        drop_connect_rate=0.0,
        batch_norm_momentum=0.1,
        depth_coefficient=1.0,
        width_coefficient=1.0,
        **options,
    )
    return transformers.EfficientNetForImageClassification(config)


def small_hf_efficientnet():
    return hf_efficientnet(
        kernel_sizes=(3, 3, 5),
        in_channels=(32, 16, 24),
        out_channels=(16, 24, 40),
        strides=(1, 2, 2),
        num_block_repeats=(1, 2, 2),
        expand_ratios=(1, 6, 6),
        hidden_dim=1280,
    )


TENSORFLOW = {"pad_type": "same", "eps": 1e-3}
V1 = {"rows": (BlockRow(channels=16), BlockRow(channels=24, stride=2, repeats=2)), "stem_width": 8}
V2_TORCHVISION = (
    BlockRow(channels=16),
    BlockRow(expansion=6, channels=24, stride=2, repeats=2),
    BlockRow(expansion=6, channels=32, repeats=2),
)
V3 = {"rows": V3_ROWS, "last_width": 96, "hidden_width": 64}
V3_TORCHVISION = {**V3, "last_width": 240}  # six times the last row's channels
NET = {"rows": SQUEEZING, "stem_width": 8, "last_width": 48}
SMALL = {
    "timm v1": (timm_v1, "mobilenet_v1", "timm", V1, EVEN),
    "timm v1, same": (lambda: timm_v1(**TENSORFLOW), "tf_mobilenetv1_100", "timm", V1, RAGGED),
    "timm v3": (timm_v3, "mobilenetv3_small_100", "timm", V3, EVEN),
    "timm v3, same": (lambda: timm_v3(**TENSORFLOW), "tf_mobilenetv3_small_100", "timm", V3, EVEN),
    "timm efficientnet": (timm_efficientnet, "efficientnet_b0", "timm", NET, EVEN),
    "timm efficientnet, same": (
        lambda: timm_efficientnet(**TENSORFLOW),
        "tf_efficientnet_b0",
        "timm",
        NET,
        RAGGED,
    ),
    "timm lite": (timm_v2, "efficientnet_lite0", "timm", {**NET, "rows": ROWS}, EVEN),
    "torchvision v2": (
        torchvision_v2,
        "mobilenet_v2",
        "torchvision",
        {"rows": V2_TORCHVISION},
        RAGGED,
    ),
    "torchvision v3": (
        torchvision_v3,
        "mobilenet_v3_large",
        "torchvision",
        V3_TORCHVISION,
        EVEN,
    ),
    "torchvision efficientnet": (
        torchvision_efficientnet,
        "efficientnet_b0",
        "torchvision",
        NET,
        EVEN,
    ),
    "hf v1": (hf_v1, "tf_mobilenetv1_100", "hf", {"width": 0.25, "norm_momentum": 0.9997}, RAGGED),
    "hf v2": (hf_v2, "tf_mobilenetv2_035", "hf", {"norm_momentum": 0.997}, RAGGED),
    "hf efficientnet": (
        small_hf_efficientnet,
        "tf_efficientnet_b0",
        "hf",
        {"rows": SQUEEZING},
        EVEN,
    ),
}


def timm_model(name):
    return lambda: timm.create_model(name, num_classes=peers.CLASSES)


def torchvision_model(name, **options):
    make = getattr(torchvision.models, name)
    return lambda: make(num_classes=peers.CLASSES, dropout=0.0, **options)


REAL = {
    "timm v1": (timm_model("mobilenetv1_100"), "mobilenetv1_100", "timm", {}, (224, 224)),
    "torchvision v2": (
        torchvision_model("mobilenet_v2"),
        "mobilenet_v2",
        "torchvision",
        {},
        (160, 224),
    ),
    "torchvision v3 large": (
        torchvision_model("mobilenet_v3_large"),
        "mobilenet_v3_large",
        "torchvision",
        {},
        (224, 224),
    ),
    "timm v3 small, half": (
        timm_model("mobilenetv3_small_050"),
        "mobilenetv3_small_050",
        "timm",
        {},
        (192, 224),
    ),
    "timm v3 minimal, same": (
        timm_model("tf_mobilenetv3_large_minimal_100"),
        "tf_mobilenetv3_large_minimal_100",
        "timm",
        {},
        (161, 224),
    ),
    "torchvision b0": (
        torchvision_model("efficientnet_b0", stochastic_depth_prob=0.0),
        "efficientnet_b0",
        "torchvision",
        {},
        (224, 224),
    ),
    "timm b0, same": (
        timm_model("tf_efficientnet_b0"),
        "tf_efficientnet_b0",
        "timm",
        {},
        (160, 225),
    ),
    "hf b0": (
        lambda: hf_efficientnet(hidden_dim=1280),
        "tf_efficientnet_b0",
        "hf",
        {},
        (224, 224),
    ),
}


def make_pair(members, member, dtype="float64"):
    build, name, source, options, size = members[member]
    pair = peers.make_pair(build(), name, source=source, dtype=dtype, **NO_DROPPING, **options)
    return pair, build, size


@pytest.mark.parametrize("member", SMALL)
def test_small_float32(member):
    pair, build, size = make_pair(SMALL, member, "float32")
    peers.check_forward(pair, build, peers.batch(*size)[0])


@pytest.mark.parametrize("member", ["timm v3", "timm efficientnet, same"])
def test_pyramid(member):
    pair, _, size = make_pair(SMALL, member, "float32")
    images = peers.batch(*size)[0]
    with peers.torch.no_grad():
        theirs = pair.peer.forward_intermediates(
            peers.to_torch(images, "float32"), intermediates_only=True
        )
    ours = jax.jit(lambda model, images: model.pyramid(images))(
        pair.model, jnp.asarray(images, "float32")
    )
    for i, (stride, grid) in enumerate(ours.items()):
        assert stride == 2 ** (i + 1)
        expected = theirs[i].numpy().transpose(0, 2, 3, 1)
        assert peers.distance(grid, expected) < peers.FLOAT32_BAR


def hf_size(name):
    """Returns the class of transformers in the size of a published repository."""
    version, width = name.removeprefix("google/mobilenet_").split("_")[:2]
    kind = f"MobileNet{version.upper()}"
    config = getattr(transformers, f"{kind}Config")(depth_multiplier=float(width), num_labels=10)
    return getattr(transformers, f"{kind}ForImageClassification")(config)


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("mobilenet_v3_small", "torchvision"),
        ("efficientnet_b2", "torchvision"),
        ("efficientnet_b5", "torchvision"),
        ("mobilenetv2_140", "timm"),
        ("mobilenetv3_large_075", "timm"),
        ("tf_mobilenetv3_small_075", "timm"),
        ("efficientnet_lite3", "timm"),
        ("tf_efficientnet_lite0", "timm"),
        ("tf_mobilenetv1_075", "hf"),
        ("tf_mobilenetv2_140", "hf"),
    ],
)
def test_other_sizes_have_the_same_arrays_and_norms(name, library):
    peer_name = get_spec(name).peers[library]
    with peers.torch.device("meta"):
        if library == "hf":
            peer = hf_size(peer_name)
        elif library == "timm":
            peer = timm.create_model(peer_name, num_classes=10)
        else:
            peer = torchvision.models.get_model(peer_name, num_classes=10)
    norms = [part for part in peer.modules() if isinstance(part, peers.torch.nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {get_spec(name).config.norm_eps}
    if library != "hf":  # see `hf_efficientnet`
        assert {norm.momentum for norm in norms} == {get_spec(name).config.norm_momentum}
    theirs = {name: tuple(tensor.shape) for name, tensor in peer.state_dict().items()}
    model = nnx.eval_shape(lambda: create_model(name, num_classes=10, rngs=nnx.Rngs(0)))
    trees = (nnx.to_pure_dict(tree) for tree in nnx.state(model, nnx.Param, nnx.BatchStat))
    shapes = {path: leaf.shape for tree in trees for path, leaf in flatten(tree).items()}
    entries = expand(source_of(model, library)[0].rules(model.config), shapes)
    ours = {
        entry.names[0]: () if entry.rule.constant is not None else entry.shape_in_file(shapes)
        for entry in entries
    }
    assert ours == theirs


@float64
@pytest.mark.parametrize(
    "member",
    peers.with_quick(SMALL, "timm v1", "timm v3", "timm efficientnet", "torchvision v2"),
)
def test_small(member):
    pair, build, size = make_pair(SMALL, member)
    peers.check_all(pair, *peers.batch(*size), steps=1)
    peers.assert_exports_back(pair, build())


@float64
@pytest.mark.parametrize("member", REAL)
def test_as_published(member):
    pair, build, size = make_pair(REAL, member)
    peers.check_all(pair, *peers.batch(*size), steps=1)
    peers.assert_exports_back(pair, build())


def sigmoid_gate(model):
    model.stages[0][0].squeeze_excite.gate = jax.nn.sigmoid


def torch_epsilon(model):
    model.stem.norm.eps = 1e-5


def symmetric_padding(model):
    model.stages[1][0].depthwise.conv.padding = "symmetric"


@float64
@pytest.mark.parametrize("trap", [sigmoid_gate, torch_epsilon, symmetric_padding])
def test_a_model_in_a_trap_does_not_pass(trap):
    pair, _, size = make_pair(SMALL, "timm v3, same")
    images = peers.batch(*size)[0]
    assert peers.forward_distance(pair, images) < peers.FLOAT64_BAR
    trap(pair.model)
    assert peers.forward_distance(pair, images) > 1e4 * peers.FLOAT64_BAR
