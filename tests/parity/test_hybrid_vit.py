"""Hybrid Vision Transformers against timm."""

import functools

import pytest
from parity import peers

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.parity
float64 = pytest.mark.float64

VIT = {"width": 48, "depth": 2, "num_heads": 3}
RESNET = {"stem_width": 32, "stage_widths": (32, 64), "stage_depths": (2, 1)}


def timm_small(depths=(2, 1), image_size=32, patch_size=1):
    """timm has no name for such small ones: put together as its own function does."""
    from timm.layers import HybridEmbed, StdConv2dSame
    from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem
    from timm.models.vision_transformer import VisionTransformer

    conv = functools.partial(StdConv2dSame, eps=1e-8)
    common = {"stem_type": "same", "preact": False, "conv_layer": conv}
    if depths:
        backbone = ResNetV2(
            layers=depths,
            channels=(128, 256),
            stem_chs=32,
            num_classes=0,
            global_pool="",
            **common,
        )
    else:
        backbone = create_resnetv2_stem(3, 32, **common)
    return VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        embed_layer=functools.partial(HybridEmbed, backbone=backbone),
        embed_dim=48,
        depth=2,
        num_heads=3,
        num_classes=peers.CLASSES,
    )


MEMBERS = {
    "stages": (timm_small, {"patch_size": 8, "image_size": 32}),
    "stages, patches, not square": (
        lambda: timm_small(image_size=(32, 80), patch_size=2),
        {"patch_size": 16, "image_size": (32, 80)},
    ),
    "stem alone": (
        lambda: timm_small(depths=(), patch_size=2),
        {"patch_size": 8, "image_size": 32, "stage_depths": (), "stage_widths": ()},
    ),
}


def make_pair(member, dtype="float64"):
    build, options = MEMBERS[member]
    options = {**VIT, **RESNET, **options}
    return peers.make_pair(build(), "vit_r26_s32", source="timm", dtype=dtype, **options), build


@pytest.mark.parametrize("member", MEMBERS)
def test_small_in_float32(member):
    pair, build = make_pair(member, "float32")
    peers.check_forward(pair, build, peers.batch(*pair.model.config.image_shape)[0])


@float64
@pytest.mark.parametrize("member", peers.with_quick(MEMBERS, "stem alone"))
def test_small(member):
    pair, build = make_pair(member)
    peers.check_all(pair, *peers.batch(*pair.model.config.image_shape), steps=2)
    peers.assert_exports_back(pair, build())


@float64
@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "vit_small_r26_s32_224"])
def test_as_published(name):
    def build():
        return timm.create_model(name, num_classes=peers.CLASSES)

    pair = peers.make_pair(build(), name, source="timm")
    peers.check_all(pair, *peers.batch(224, 224, size=2), steps=1)
    peers.assert_exports_back(pair, build())


@float64
def test_r50_as_published():
    """Too large to train in a test; its logits at a size that is not square."""

    def build():
        return timm.create_model(
            "vit_base_r50_s16_224", num_classes=peers.CLASSES, img_size=(96, 160)
        )

    pair = peers.make_pair(build(), "vit_base_r50_s16_224", source="timm", image_size=(96, 160))
    distance = peers.forward_distance(pair, peers.batch(96, 160, size=2)[0])
    peers.assert_close({"evaluation": distance}, peers.FLOAT64_BAR)
    peers.assert_exports_back(pair, build())
