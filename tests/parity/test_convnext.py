"""ConvNeXt against timm, torchvision and transformers."""

import pytest
from parity import peers

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
float64 = pytest.mark.float64

STAGES = {"stage_depths": (1, 2, 1, 2), "stage_widths": (8, 16, 24, 32)}
RAGGED = (72, 101)  # pixels are left out: 18 x 25, 9 x 12, 4 x 6 and 2 x 3


def timm_small():
    return timm.create_model(
        "convnext_tiny",
        num_classes=peers.CLASSES,
        depths=STAGES["stage_depths"],
        dims=STAGES["stage_widths"],
    )


def timm_unscaled():
    return timm.models.convnext.ConvNeXt(
        num_classes=peers.CLASSES,
        depths=STAGES["stage_depths"],
        dims=STAGES["stage_widths"],
        ls_init_value=None,
    )


def torchvision_small():
    widths = (*STAGES["stage_widths"], None)
    stages = [
        torchvision.models.convnext.CNBlockConfig(widths[i], widths[i + 1], depth)
        for i, depth in enumerate(STAGES["stage_depths"])
    ]
    return torchvision.models.ConvNeXt(stages, num_classes=peers.CLASSES)


def hf(**options):
    """Returns the published tiny, or a part of it."""
    config = transformers.ConvNextConfig(num_labels=peers.CLASSES, **options)
    return transformers.ConvNextForImageClassification(config)


def hf_small():
    return hf(depths=STAGES["stage_depths"], hidden_sizes=STAGES["stage_widths"])


SMALL = {
    "timm": (timm_small, "convnext_tiny", "timm", {}),
    "timm, no layer scale": (
        timm_unscaled,
        "convnext_tiny",
        "timm",
        {"layer_scale_init": None},
    ),
    "torchvision": (torchvision_small, "convnext_tiny", "torchvision", {}),
    "hf": (hf_small, "convnext_tiny_hf", "hf", {}),
}
PUBLISHED = {
    "timm": (
        lambda: timm.create_model("convnext_tiny", num_classes=peers.CLASSES),
        "convnext_tiny",
        (96, 96),
    ),
    "torchvision": (
        lambda: torchvision.models.convnext_tiny(
            num_classes=peers.CLASSES, stochastic_depth_prob=0.0
        ),
        "convnext_tiny",
        (64, 96),
    ),
    "hf": (hf, "facebook/convnext-tiny-224", (96, 64)),
}


def make_pair(member, dtype="float64"):
    build, name, source, options = SMALL[member]
    pair = peers.make_pair(build(), name, source=source, dtype=dtype, **STAGES | options)
    return pair, build


@pytest.mark.parametrize("member", ["timm", "torchvision", "hf"])
def test_small_in_float32(member):
    pair, build = make_pair(member, "float32")
    peers.check_forward(pair, build, peers.batch(*RAGGED)[0])


@float64
@pytest.mark.parametrize("member", peers.with_quick(SMALL, "timm", "hf"))
def test_small(member):
    pair, build = make_pair(member)
    peers.check_all(pair, *peers.batch(*RAGGED), steps=2)
    peers.assert_exports_back(pair, build())


@float64
@pytest.mark.parametrize("source", PUBLISHED)
def test_as_published(source):
    build, name, shape = PUBLISHED[source]
    pair = peers.make_pair(build(), name, source=source)
    peers.check_all(pair, *peers.batch(*shape, size=2), steps=1)
    peers.assert_exports_back(pair, build())


@float64
def test_at_224():
    build, name, _ = PUBLISHED["torchvision"]
    pair = peers.make_pair(build(), name, source="torchvision")
    images = peers.batch(224, 224, size=1)[0]
    peers.assert_close({"evaluation": peers.forward_distance(pair, images)}, peers.FLOAT64_BAR)
