"""PVT v1 against transformers, v2 against timm and transformers."""

import pytest
from parity import peers

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
float64 = pytest.mark.float64

# Unequal in every stage, so that nothing mixed up stays unseen.
STAGES = {
    "stage_depths": (1, 2, 1, 2),
    "stage_widths": (8, 16, 24, 32),
    "stage_heads": (1, 2, 3, 4),
    "mlp_ratios": (3, 2, 4, 2),
}


def v1(image_size=64, **options):
    """Returns the published tiny, or a part of it."""
    config = transformers.PvtConfig(image_size=image_size, num_labels=peers.CLASSES, **options)
    return transformers.PvtForImageClassification(config)


def small_v1():
    return v1(
        depths=STAGES["stage_depths"],
        hidden_sizes=STAGES["stage_widths"],
        num_attention_heads=STAGES["stage_heads"],
        mlp_ratios=STAGES["mlp_ratios"],
    )


def timm_v2(**options):
    return timm.create_model(
        "pvt_v2_b0",
        num_classes=peers.CLASSES,
        depths=STAGES["stage_depths"],
        embed_dims=STAGES["stage_widths"],
        num_heads=STAGES["stage_heads"],
        mlp_ratios=STAGES["mlp_ratios"],
        **options,
    )


def hf_v2(**options):
    """Returns the published b0, or a part of it."""
    config = transformers.PvtV2Config(num_labels=peers.CLASSES, **options)
    return transformers.PvtV2ForImageClassification(config)


def small_hf_v2(**options):
    return hf_v2(
        depths=STAGES["stage_depths"],
        hidden_sizes=STAGES["stage_widths"],
        num_attention_heads=STAGES["stage_heads"],
        mlp_ratios=STAGES["mlp_ratios"],
        **options,
    )


SMALL = {
    "v1": (small_v1, "pvt_tiny", "hf", {"image_size": 64}, (64, 64)),
    # transformers reads its tables, made for 64 x 64, as grids of any shape with as many tokens.
    "v1, not square": (small_v1, "pvt_tiny", "hf", {"image_size": (32, 128)}, (32, 128)),
    # No reduction divides these maps: 18 x 26, 9 x 13, 5 x 7 and 3 x 4.
    "v2 timm": (timm_v2, "pvt_v2_b0", "timm", {}, (72, 101)),
    "v2 timm, linear": (lambda: timm_v2(linear=True), "pvt_v2_b2_li", "timm", {}, (72, 101)),
    "v2 hf": (small_hf_v2, "pvt_v2_b0_hf", "hf", {}, (72, 101)),
    "v2 hf, linear": (
        lambda: small_hf_v2(linear_attention=True),
        "pvt_v2_b2_li_hf",
        "hf",
        {},
        (72, 101),
    ),
}
PUBLISHED = {
    "pvt_tiny": (lambda: v1(224), "hf", (224, 224)),
    "pvt_v2_b0": (
        lambda: timm.create_model("pvt_v2_b0", num_classes=peers.CLASSES),
        "timm",
        (224, 224),
    ),
    "pvt_v2_b0_hf": (hf_v2, "hf", (160, 96)),
}


def make_pair(member, dtype="float64"):
    build, name, source, options, _ = SMALL[member]
    pair = peers.make_pair(build(), name, source=source, dtype=dtype, **STAGES | options)
    return pair, build


@pytest.mark.parametrize("member", ["v1", "v2 timm", "v2 timm, linear", "v2 hf"])
def test_small_in_float32(member):
    pair, build = make_pair(member, "float32")
    peers.check_forward(pair, build, peers.batch(*SMALL[member][-1])[0])


@float64
@pytest.mark.parametrize("member", peers.with_quick(SMALL, "v1", "v2 timm"))
def test_small(member):
    pair, build = make_pair(member)
    peers.check_all(pair, *peers.batch(*SMALL[member][-1]), steps=2)
    peers.assert_exports_back(pair, build())


@float64
@pytest.mark.parametrize("name", PUBLISHED)
def test_as_published(name):
    build, source, shape = PUBLISHED[name]
    pair = peers.make_pair(build(), name, source=source)
    peers.check_all(pair, *peers.batch(*shape, size=2), steps=1)
    peers.assert_exports_back(pair, build())


@float64
def test_the_epsilons_of_timm_and_transformers_are_not_the_same():
    build, name, source, options, shape = SMALL["v2 timm"]
    pair = peers.make_pair(build(), name, source=source, **STAGES | options)
    pair.model.stages[0].patch_embed.norm.epsilon = 1e-6
    assert peers.forward_distance(pair, peers.batch(*shape)[0]) > 1e3 * peers.FLOAT64_BAR
