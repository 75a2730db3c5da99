"""Files without a head, of self-supervised training, and with the names of a model's authors."""

import re

import jax
import numpy as np
import pytest
from flax import nnx
from interop import helpers

import jaxvision.parity.torchvision_import  # noqa: F401 - before timm
from jaxvision.errors import InputError
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.models.registry import create_model

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
OWN = "the file has none, the model keeps its own"
OWN_END = "the file has none in this place, the model keeps its own"

VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}
SWIN = {"embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2), "window_size": 2, "img_size": 32}
SWIN_MAPS = SWIN | {"out_indices": (0, 1)}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
OUR_SWIN = {"width": 12, "stage_depths": (2, 2), "stage_heads": (1, 2), "window_size": 2}
OUR_SWIN |= {"image_size": 32}
STAGES = {"stage_depths": (1, 1, 1, 1), "stage_widths": (8, 16, 24, 32)}
HEADS = {"stage_heads": (1, 2, 3, 4), "mlp_ratios": (3, 2, 4, 2)}
HF_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
HF_VIT |= {"intermediate_size": 64, "patch_size": 8, "image_size": 32}
HF_SWIN = {"embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2), "window_size": 2}
HF_SWIN |= {"image_size": 32}
HF_PVT = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 16, 24, 32),
    "num_attention_heads": (1, 2, 3, 4),
}
HF_PVT |= {"mlp_ratios": (3, 2, 4, 2)}


def arrays(state):
    return {name: tensor.detach().numpy().copy() for name, tensor in state.items()}


def randomised(module):
    """Returns the module with values that differ everywhere, variances above 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.2 + 0.1)
    return module.eval()


def ours(name, **options):
    """Returns a model of shapes: what it keeps of its own stays one."""
    return nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(1), **options))


def same_without(model, other, *parts):
    """Asserts that two models are equal, but in these parts."""
    left, right = (nnx.to_pure_dict(nnx.state(each)) for each in (model, other))
    for part in left.keys() - set(parts):
        assert jax.tree.structure(left[part]) == jax.tree.structure(right[part])
        for array, same in zip(*map(jax.tree.leaves, (left[part], right[part])), strict=True):
            np.testing.assert_array_equal(array, same)


# --- Encoders alone -------------------------------------------------------------------------------

ENCODERS = {
    "Vit": ("ViT", HF_VIT, "vit_b16_hf", helpers.VIT),
    "Deit": ("DeiT", HF_VIT, "deit_ti16_distilled", {**helpers.VIT, "distillation_head": False}),
    "Swin": ("Swin", HF_SWIN, "swin_t", OUR_SWIN),
    "Swinv2": ("Swinv2", HF_SWIN, "swin_v2_t_w8", OUR_SWIN),
    "Pvt": ("Pvt", HF_PVT | {"image_size": 64}, "pvt_tiny", STAGES | HEADS | {"image_size": 64}),
    "PvtV2": ("PvtV2", HF_PVT, "pvt_v2_b0", STAGES | HEADS | {"projection_norm_eps": 1e-6}),
    "ResNet": (
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
        "resnet18",
        {"stage_widths": (16, 32), "stage_depths": (1, 1), "stem_width": 8},
    ),
    "ConvNext": (
        "ConvNext",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
        "convnext_tiny",
        STAGES,
    ),
    "EfficientNet": (
        "EfficientNet",
        {"hidden_dim": 1280, "image_size": 64, "width_coefficient": 1.0, "depth_coefficient": 1.0},
        "tf_efficientnet_b0",
        {},
    ),
    "MobileNetV1": (
        "MobileNetV1",
        {"depth_multiplier": 0.25},
        "mobilenetv1_025",
        {"padding": "same", "norm_eps": 1e-3},
    ),
    "MobileNetV2": (
        "MobileNetV2",
        {"depth_multiplier": 0.35},
        "mobilenetv2_035",
        {"padding": "same", "norm_eps": 1e-3},
    ),
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_of_transformers(encoder):
    peer, fields, name, options = ENCODERS[encoder]
    config = getattr(hf, f"{peer}Config")(num_labels=5, **fields)
    whole = randomised(getattr(hf, f"{peer}ForImageClassification")(config))
    alone = randomised(getattr(hf, f"{peer}Model")(config))
    names = set(whole.state_dict())
    prefix = next(n for n in names if "." in n and "classifier" not in n).split(".")[0] + "."
    alone.load_state_dict(
        {n.removeprefix(prefix): t for n, t in whole.state_dict().items() if n.startswith(prefix)},
        strict=False,  # the pooler
    )
    expected = ours(name, num_classes=5, **options)
    assign_weights(expected, arrays(whole.state_dict()))
    weights = arrays(alone.state_dict())
    pooler = tuple(name for name in weights if name.startswith("pooler."))
    for classes in (0, 5):
        model = ours(name, num_classes=classes, **options)
        report = assign_weights(model, weights)
        assert report.source == "hf" and report.left_out == pooler
        assert report.adapted == ({"head": OWN} if classes else {})
        same_without(model, expected, "head")


@pytest.mark.parametrize(
    ("peer", "fields", "name", "options", "kept"),
    [
        ("convnext_tiny", CONVNEXT, "convnext_tiny", STAGES, {"norm"}),
        ("swin_tiny_patch4_window7_224", SWIN_MAPS, "swin_t", OUR_SWIN, {"norm"}),
        ("mobilenetv2_035", {}, "mobilenetv2_035", {}, {"last_conv"}),
        ("mobilenetv3_small_050", {}, "mobilenetv3_small_050", {}, {"hidden"}),
        ("resnet18", {}, "resnet18", {}, set()),
        ("pvt_v2_b0", {}, "pvt_v2_b0", {}, set()),
    ],
)  # fmt: skip
def test_models_of_timm_made_for_their_maps(peer, fields, name, options, kept):
    maps = randomised(timm.create_model(peer, features_only=True, **fields))
    weights = arrays(maps.state_dict())
    for classes in (0, 5):
        model = ours(name, num_classes=classes, **options)
        report = assign_weights(model, weights)
        # V3's hidden layer belongs to its head: without classes there is none.
        wanted = {part for part in kept if classes or part in ("norm", "last_conv", "hidden")}
        found = set(report.adapted) - {"head"}
        assert found <= wanted and (found or not classes or not wanted)
        texts = {OWN if part == "head" else OWN_END for part in report.adapted}
        assert set(report.adapted.values()) == texts and not report.left_out
    if "norm" in kept:
        assign_weights(model := create_model(name, rngs=nnx.Rngs(1), **options), weights)
        images = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)
        theirs = maps(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        found = nnx.jit(lambda model, images: model.trunk(images)[1])(model, images)
        for ours_, peer_ in zip([found[s] for s in sorted(found)], theirs, strict=True):
            peer_ = peer_.detach().numpy()
            peer_ = peer_ if "swin" in peer else peer_.transpose(0, 2, 3, 1)
            np.testing.assert_allclose(ours_, peer_, atol=1e-4 * np.abs(peer_).max())


# --- The norm before and behind the pooling -------------------------------------------------------


def test_a_norm_elsewhere_is_refused_where_a_head_reads_it():
    token, average = (
        helpers.random_weights(helpers.vit()),
        helpers.random_weights(helpers.vit(pool="average")),
    )
    with pytest.raises(InputError, match=r"a norm before the pooling \(norm\).*pool='token'\."):
        assign_weights(helpers.vit(pool="average"), token)
    with pytest.raises(InputError, match=r"a norm behind the pooling \(fc_norm\).*pool='average'"):
        assign_weights(helpers.vit(), average)
    for make in (helpers.vit, lambda: helpers.vit(pool="average")):
        with pytest.raises(InputError, match="both before and behind.*no counterpart"):
            assign_weights(make(), token | average)


def test_an_encoder_gets_a_new_norm_behind_the_pooling():
    weights = helpers.random_weights(helpers.vit(num_classes=0))
    model = helpers.vit(pool="average")
    before = np.asarray(model.norm.scale[...])
    report = assign_weights(model, weights)
    assert report.left_out == ("norm.weight", "norm.bias")
    assert report.adapted == {"norm": OWN_END, "head": OWN}
    np.testing.assert_array_equal(model.norm.scale[...], before)
    # timm refuses both ways.
    peer = timm.models.vision_transformer.VisionTransformer(**VIT, num_classes=5, global_pool="avg")
    with pytest.raises(RuntimeError, match="fc_norm"):
        peer.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()})


# --- Self-supervised ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "training",
    [
        ("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.norm1.bias"),
        ("head.mlp.0.weight", "head.last_layer.weight_g"),  # DINO
        ("head.0.weight", "head.1.running_mean", "head.4.num_batches_tracked"),  # MoCo v3
        (),
    ],
)
def test_what_only_the_training_needed_is_left_out(training):
    weights = helpers.random_weights(helpers.vit(num_classes=0))
    expected = helpers.vit(num_classes=0)
    assign_weights(expected, weights)
    weights |= {name: np.ones(3, np.float32) for name in training}
    for classes in (0, 5):
        report = assign_weights(model := helpers.vit(num_classes=classes), weights)
        assert report.source == "timm" and report.left_out == training
        assert report.adapted == ({"head": OWN} if classes else {})
        same_without(model, expected, "head")


# --- The authors' names ---------------------------------------------------------------------------


def official_convnext(name):
    name = re.sub(r"^stem\.(\d)", r"downsample_layers.0.\1", name)
    name = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
    name = re.sub(r"^stages\.(\d)\.blocks\.", r"stages.\1.", name)
    name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
    return name.replace("head.norm", "norm").replace("head.fc", "head")


@pytest.mark.parametrize("classes", [5, 0])
def test_convnext_of_its_authors(classes):
    fields = {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32), "num_classes": classes}
    peer = randomised(timm.create_model("convnext_tiny", **fields))
    official = {official_convnext(n): t for n, t in peer.state_dict().items()}
    back = timm.models.convnext.checkpoint_filter_fn(dict(official), peer)
    assert set(back) == set(peer.state_dict())
    options = STAGES | {"stage_depths": (1, 2, 1, 1), "num_classes": classes}
    expected, model = ours("convnext_tiny", **options), ours("convnext_tiny", **options)
    assign_weights(expected, arrays(back))
    report = assign_weights(model, arrays(official))
    assert report.source == "timm" and not report.adapted and not report.left_out
    same_without(model, expected)


@pytest.mark.parametrize("classes", [5, 0])
@pytest.mark.parametrize("version", [1, 2])
def test_swin_of_its_authors(version, classes):
    module = getattr(timm.models, "swin_transformer" + "_v2" * (version == 2))
    build = module.SwinTransformer if version == 1 else module.SwinTransformerV2
    fields = SWIN | {"depths": (2, 2, 2), "num_heads": (1, 2, 3), "num_classes": classes}
    peer = randomised(build(**fields))

    def old(name):
        name = re.sub(
            r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name
        )
        return name.replace("head.fc.", "head.")

    official = {old(n): t for n, t in peer.state_dict().items()}
    assert "layers.0.downsample.reduction.weight" in official
    buffers = ["attn.relative_position_index", "attn_mask"]
    buffers += ["attn.relative_coords_table"] if version == 2 else []
    official |= {f"layers.{s}.blocks.1.{n}": torch.ones(4, 4) for s in (0, 1) for n in buffers}
    back = module.checkpoint_filter_fn(dict(official), peer)
    assert set(back) == set(peer.state_dict())
    options = OUR_SWIN | {"stage_depths": (2, 2, 2), "stage_heads": (1, 2, 3)}
    name = "swin_t" if version == 1 else "swin_v2_t_w8"
    expected = ours(name, num_classes=classes, windows="fitted", **options)
    model = ours(name, num_classes=classes, windows="fitted", **options)
    assign_weights(expected, arrays(back))
    report = assign_weights(model, arrays(official))
    assert report.source == "timm" and not report.adapted
    same_without(model, expected)


def test_deit_of_the_third_version_of_its_authors():
    fields = VIT | {"num_classes": 5, "no_embed_class": True, "init_values": 1e-6}
    peer = randomised(timm.models.vision_transformer.VisionTransformer(**fields))
    official = {
        re.sub(r"\.ls(\d)\.gamma", r".gamma_\1", name): tensor
        for name, tensor in peer.state_dict().items()
    }
    assert "blocks.0.gamma_1" in official
    filtered = timm.models.vision_transformer.checkpoint_filter_fn
    back = filtered(dict(official), peer, adapt_layer_scale=True)
    assert set(back) == set(peer.state_dict())
    options = {"class_token_position": False, "layer_scale_init": 1e-6}
    expected, model = helpers.vit(**options), helpers.vit(**options)
    assign_weights(expected, arrays(back))
    assert not assign_weights(model, arrays(official)).adapted
    same_without(model, expected)


# --- efficientnet-pytorch -------------------------------------------------------------------------


def lukemelas(name, config):
    """Returns what efficientnet-pytorch calls an array of timm."""
    before = np.cumsum([0, *(len(blocks) for blocks in config.stages())])
    found = re.match(r"blocks\.(\d+)\.(\d+)\.(.*)", name)
    if found is None:
        ends = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head"}
        ends |= {"bn2": "_bn1", "classifier": "_fc"}
        part, _, rest = name.partition(".")
        return f"{ends[part]}.{rest}"
    stage, block, rest = int(found[1]), int(found[2]), found[3]
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    later = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    later |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    parts = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    parts |= later if stage else first
    part, _, rest = rest.rpartition(".")
    return f"_blocks.{before[stage] + block}.{parts[part]}.{rest}"


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "tf_efficientnet_lite0"])
def test_efficientnet_pytorch(name):
    peer = timm.create_model(name, num_classes=5)
    weights = arrays(randomised(peer).state_dict())
    expected, model = ours(name, num_classes=5), ours(name, num_classes=5, norm_momentum=0.01)
    assign_weights(expected, weights)
    renamed = {lukemelas(n, model.config): w for n, w in weights.items()}
    assert "_blocks.15._bn2.running_var" in renamed and len(renamed) == len(weights)
    report = assign_weights(model, renamed)
    assert report.source == "efficientnet_pytorch"
    assert not (report.adapted or report.left_out or report.notes)
    same_without(model, expected)
    assert set(extract_weights(model, format="efficientnet_pytorch")) == set(renamed)
    other = ours(name.removeprefix("tf_"), num_classes=5)
    with pytest.raises(InputError, match="no EfficientNet with padding='symmetric'"):
        assign_weights(other, renamed)


def test_the_real_efficientnet_pytorch():
    package = pytest.importorskip("efficientnet_pytorch")
    peer = randomised(package.EfficientNet.from_name("efficientnet-b0", num_classes=5))
    model = ours("tf_efficientnet_b0", num_classes=5)
    report = assign_weights(model, arrays(peer.state_dict()))
    assert report.source == "efficientnet_pytorch" and not report.left_out
    images = np.random.default_rng(0).standard_normal((1, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = peer(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    found = nnx.jit(lambda model, images: model(images))(model, images)
    np.testing.assert_allclose(found, theirs, atol=1e-5 * np.abs(theirs).max())
