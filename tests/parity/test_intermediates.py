"""Maps of the middle of every family against timm's `forward_intermediates`."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from parity import peers

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.parity.peers import build_pair

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pytestmark = pytest.mark.parity

SWIN = {"width": 24, "stage_depths": (1, 1, 2, 1), "stage_heads": (1, 2, 4, 8), "image_size": 64}
TIMM_SWIN = {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "img_size": 64}
# A small member of a family, as it is here and as it is in timm, and what of timm's stages ours
# begin with: theirs of a ResNet begin before the max-pooling, which is no stage here.
STAGED = {
    "resnet18": ({}, {}, 1),
    "convnext_tiny": (
        {"stage_depths": (1, 1, 2, 1), "stage_widths": (8, 16, 24, 32)},
        {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)},
        0,
    ),
    "swin_t": ({**SWIN, "window_size": 2}, {**TIMM_SWIN, "window_size": 2}, 0),
    "swin_v2_t_w8": ({**SWIN, "window_size": 2}, {**TIMM_SWIN, "window_size": 2}, 0),
    "pvt_v2_b0": ({}, {}, 0),
    "efficientnet_lite0": ({}, {}, 0),
    "mobilenet_v1": ({}, {}, 0),
    "mobilenet_v2": ({}, {}, 0),
    "mobilenetv3_small_050": ({}, {}, 0),
}
BLOCKS = {
    "vit_ti16": (64, 48),
    "deit_ti16_distilled": (48, 64),
    "vit_r_ti16": (64, 64),
    "dinov2_s14_reg4": (42, 56),
}


def theirs(pair, images, **options):
    with torch.no_grad():
        maps = pair.peer.forward_intermediates(
            peers.to_torch(images, "float32"), intermediates_only=True, **options
        )
    return [each.numpy().transpose(0, 2, 3, 1) for each in maps]


def assert_same(ours, maps):
    assert len(ours) == len(maps)
    for one, other in zip(ours, maps, strict=True):
        assert peers.distance(one, other) < peers.FLOAT32_BAR


@pytest.mark.parametrize("name", STAGED)
def test_stages(name):
    options, arguments, first = STAGED[name]
    peer = timm.create_model(jv.get_spec(name).timm, num_classes=peers.CLASSES, **arguments)
    pair = peers.make_pair(peer, name, source="timm", dtype="float32", **options)
    images = peers.batch(64, 64, size=2)[0].astype("float32")
    ours = jax.jit(lambda model, images: model.intermediates(images))(pair.model, images)
    assert_same(ours, theirs(pair, images)[first:])


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name):
    height, width = BLOCKS[name]
    pair = build_pair(name, "timm", height=height, width=width, dtype="float32")
    images = peers.batch(height, width, size=2)[0].astype("float32")

    @jax.jit
    def maps(model, images):
        plain = model.intermediates(images, (3, 6, 9))
        return plain, model.intermediates(images, 2, normalize=True)

    plain, normalised = maps(pair.model, images)
    assert_same(plain, theirs(pair, images, indices=[3, 6, 9]))
    assert_same(normalised, theirs(pair, images, indices=2, norm=True))


def small(**options) -> Any:
    sizes = {"width": 16, "depth": 3, "num_heads": 2, "patch_size": 8, "image_size": 32}
    return jv.create_model("vit_ti16", rngs=nnx.Rngs(0), **{**sizes, **options})


def resnet() -> Any:
    return jv.create_model("resnet18", rngs=nnx.Rngs(0))


def test_the_last_normalised_block_is_what_features_returns():
    model, images = small(scan=True), jnp.ones((1, 32, 32, 3))
    (tokens,) = model.intermediate_tokens(images, (-1,), normalize=True)
    assert jnp.allclose(tokens, model.features(images), atol=1e-6)
    (second, first) = model.intermediates(images, (1, 0))
    for one, other in zip(model.intermediates(images), (first, second), strict=False):
        assert jnp.array_equal(one, other)


def test_what_is_refused():
    images = jnp.ones((1, 32, 32, 3))
    with pytest.raises(InputError, match="3 blocks or stages, 0 to 2 or -3 to -1, got 3"):
        small().intermediates(images, (0, 3))
    with pytest.raises(InputError, match="got -4"):
        small().intermediates(images, 4)
    for count in (0, -1):  # which would be no maps at all
        with pytest.raises(InputError, match=f"from 1 on, got {count}"):
            small().intermediates(images, count)
    with pytest.raises(InputError, match="behind"):
        small(pool="average").intermediates(images, normalize=True)
    with pytest.raises(InputError, match="a ResNet has none"):
        resnet().intermediates(images, normalize=True)
