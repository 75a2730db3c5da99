"""Google's .npz files, held against the loader that timm has for them."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from interop import helpers

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.models.registry import create_model

RESNET = {"stage_depths": (2, 1), "stage_widths": (32, 64), "stem_width": 32}


def hybrid(seed=0, **options):
    options = {**helpers.VIT, **RESNET, "num_classes": 5, **options}
    return create_model("vit_r26_s32", rngs=nnx.Rngs(seed), **options)


def google_file(model, seed=0):
    """Returns arrays as a program of Google would have written them."""
    return helpers.random_weights(model, "augreg", seed)


def test_names_and_layouts():
    weights = google_file(helpers.vit())
    attention = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
    shapes = {
        "cls": (1, 1, 16),
        "embedding/kernel": (8, 8, 3, 16),
        "Transformer/posembed_input/pos_embedding": (1, 17, 16),
        f"{attention}/query/kernel": (16, 2, 8),
        f"{attention}/key/bias": (2, 8),
        f"{attention}/out/kernel": (2, 8, 16),
        f"{attention}/out/bias": (16,),
        "Transformer/encoderblock_0/LayerNorm_2/scale": (16,),
        "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel": (16, 64),
        "Transformer/encoder_norm/bias": (16,),
        "head/kernel": (16, 5),
    }
    assert {name: weights[name].shape for name in shapes} == shapes
    units = google_file(hybrid())
    assert units["block1/unit2/conv3/kernel"].shape == (1, 1, 32, 128)
    assert units["block2/unit1/gn_proj/scale"].shape == (256,)
    assert "block1/unit2/conv_proj/kernel" not in units
    assert units["conv_root/kernel"].shape == (7, 7, 3, 32)


@pytest.mark.parametrize("make", [helpers.vit, hybrid])
def test_a_file_brings_every_bit_back(make, tmp_path):
    saved, loaded = make(seed=1), make(seed=2)
    jv.save_weights(saved, tmp_path / "w.npz", format="augreg")
    report = jv.load_weights(loaded, tmp_path / "w.npz")
    assert helpers.same(helpers.leaves(saved), helpers.leaves(loaded))
    assert report.source == "augreg" and not (report.adapted or report.left_out or report.notes)


@pytest.mark.parametrize("prefix", ["opt/target/", "params/"])
def test_prefixes(prefix, tmp_path):
    weights = google_file(helpers.vit())
    np.savez(tmp_path / "w.npz", **{prefix + name: array for name, array in weights.items()})
    jv.load_weights(model := helpers.vit(seed=1), tmp_path / "w.npz")
    np.testing.assert_array_equal(model.head.kernel[...], weights["head/kernel"])


def test_names_of_big_vision():
    weights = google_file(helpers.vit())
    changes = (
        ("MultiHeadDotProductAttention_1", "MultiHeadDotProductAttention_0"),
        ("LayerNorm_2", "LayerNorm_1"),
        ("MlpBlock_3", "MlpBlock_0"),
        ("Transformer/posembed_input/pos_embedding", "pos_embedding"),
    )
    later = {}
    for name, array in weights.items():
        for old, new in changes:
            name = name.replace(old, new)
        later[name] = array
    assign_weights(first := helpers.vit(seed=1), weights)
    assert assign_weights(second := helpers.vit(seed=2), later).source == "augreg"
    assert helpers.same(helpers.leaves(first), helpers.leaves(second))


def test_norms_of_the_first_files_keep_empty_axes():
    weights = google_file(hybrid())
    old = {
        name: array.reshape(1, 1, 1, -1) if "/gn" in name or name.startswith("gn_") else array
        for name, array in weights.items()
    }
    assign_weights(first := hybrid(seed=1), weights)
    assign_weights(second := hybrid(seed=2), old)
    assert helpers.same(helpers.leaves(first), helpers.leaves(second))


def test_the_layer_before_the_head_goes_only_with_the_head():
    extra = {
        "pre_logits/kernel": np.ones((16, 16), np.float32),
        "pre_logits/bias": np.ones(16, np.float32),
    }
    weights = google_file(helpers.vit(num_classes=7)) | extra
    report = assign_weights(helpers.vit(), weights)
    assert set(report.left_out) == {"head/kernel", "head/bias", *extra}
    assert "7 classes in the file" in report.adapted["head"]
    report = assign_weights(helpers.vit(num_classes=0), weights)
    assert set(report.left_out) == {"head/kernel", "head/bias", *extra}
    with pytest.raises(InputError, match="has no use for 'pre_logits/"):
        assign_weights(helpers.vit(num_classes=7), weights)


def test_models_that_google_has_not():
    for options, message in (
        ({"pool": "average"}, "with pool='average'"),
        ({"class_token_position": False}, "with class_token_position=False"),
        ({"layer_scale_init": 0.1}, "with layer_scale_init=0.1"),
    ):
        with pytest.raises(InputError, match=message):
            extract_weights(helpers.vit(**options), format="augreg")


# --- timm's own loader --------------------------------------------------------------------------


def timm_vit(image_size=32):
    timm = pytest.importorskip("timm")
    options = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", img_size=image_size, **options)


def timm_hybrid(image_size=32, stages=True):
    timm = pytest.importorskip("timm")
    from timm.models import resnetv2

    conv = functools.partial(timm.layers.StdConv2dSame, eps=1e-8)
    common = {"stem_type": "same", "preact": False, "conv_layer": conv}
    if stages:
        backbone = resnetv2.ResNetV2(
            (2, 1), (128, 256), num_classes=0, global_pool="", stem_chs=32, **common
        )
    else:
        backbone = resnetv2.create_resnetv2_stem(3, 32, **common)
    return timm.models.vision_transformer.VisionTransformer(
        img_size=image_size,
        patch_size=1 if stages else 2,
        embed_layer=functools.partial(timm.layers.HybridEmbed, backbone=backbone),
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=5,
    )


PAIRS = {
    "vit": (helpers.vit, timm_vit),
    "hybrid": (hybrid, timm_hybrid),
    "stem alone": (
        functools.partial(hybrid, stage_depths=(), stage_widths=()),
        functools.partial(timm_hybrid, stages=False),
    ),
}


def assert_equal_to(model, peer):
    expected = {name: tensor.detach().numpy() for name, tensor in peer.state_dict().items()}
    helpers.assert_equal(extract_weights(model, format="timm"), expected)


@pytest.mark.parity
@pytest.mark.parametrize("name", PAIRS)
def test_timm_reads_a_file_as_we_do(name, tmp_path):
    make, build = PAIRS[name]
    np.savez(tmp_path / "w.npz", **google_file(make()))
    peer, model = build(), make(seed=1)
    peer.load_pretrained(str(tmp_path / "w.npz"))
    jv.load_weights(model, tmp_path / "w.npz")
    assert_equal_to(model, peer)


@pytest.mark.parity
@pytest.mark.parametrize("name", PAIRS)
def test_timm_reads_what_we_write(name, tmp_path):
    make, build = PAIRS[name]
    jv.save_weights(model := make(seed=3), tmp_path / "w.npz", format="augreg")
    peer = build()
    peer.load_pretrained(str(tmp_path / "w.npz"))
    assert_equal_to(model, peer)


@pytest.mark.parity
def test_other_positions_as_timm_fits_them(tmp_path):
    np.savez(tmp_path / "w.npz", **google_file(helpers.vit()))
    peer, model = timm_vit((24, 48)), helpers.vit(image_size=(24, 48))
    peer.load_pretrained(str(tmp_path / "w.npz"))
    report = jv.load_weights(model, tmp_path / "w.npz", image_size=32)
    assert report.adapted == {"pos_embed": "positions resized from 4 x 4 to 3 x 6, bilinear"}
    np.testing.assert_allclose(model.pos_embed[...], peer.pos_embed.detach().numpy(), atol=2e-6)


@pytest.mark.parity
def test_a_first_kernel_for_other_channels(tmp_path):
    np.savez(tmp_path / "w.npz", **google_file(hybrid()))
    from timm.models import adapt_input_conv

    report = jv.load_weights(model := hybrid(in_channels=4), tmp_path / "w.npz")
    assert list(report.adapted) == ["patch_embed/stem/conv/kernel"]
    torch = pytest.importorskip("torch")
    kernel = np.load(tmp_path / "w.npz")["conv_root/kernel"].transpose(3, 2, 0, 1)
    theirs = adapt_input_conv(4, torch.from_numpy(kernel.copy())).numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(model.patch_embed.stem.conv.kernel[...], theirs, rtol=1e-6)
    assert model(jnp.zeros((1, 32, 32, 4))).shape == (1, 5)
