"""In float64 the noise is 1e-14, so that nothing but the same arithmetic passes 1e-10."""

import jax
import pytest
from parity import members, peers

pytestmark = [pytest.mark.parity, pytest.mark.float64]


@pytest.mark.parametrize(
    "member", peers.with_quick(members.SMALL_VITS, "timm vit", "torchvision vit")
)
def test_small_vit(member):
    build, source, options = members.SMALL_VITS[member]
    pair = peers.make_pair(
        build(), "vit_ti16", source=source, **(members.SMALL | {"image_size": 32} | options)
    )
    height, width = pair.model.config.image_shape
    peers.check_all(pair, *peers.batch(height, width), steps=2)
    peers.assert_exports_back(pair, build())


def test_vit_tiny_as_published():
    def build():
        return members.timm.create_model("vit_tiny_patch16_224", num_classes=peers.CLASSES)

    pair = peers.make_pair(build(), "vit_tiny_patch16_224", source="timm")
    peers.check_all(pair, *peers.batch(224, 224, size=2), steps=2)
    peers.assert_exports_back(pair, build())


def test_vit_tiny_not_square():
    peer = members.timm.create_model(
        "vit_tiny_patch16_224", num_classes=peers.CLASSES, img_size=(160, 224)
    )
    pair = peers.make_pair(peer, "vit_ti16", source="timm", image_size=(160, 224))
    peers.check_all(pair, *peers.batch(160, 224, size=2), steps=1)


def test_vit_b_16_as_published():
    def build():
        return members.torchvision.models.vit_b_16(num_classes=peers.CLASSES)

    pair = peers.make_pair(build(), "vit_b_16", source="torchvision")
    peers.check_all(pair, *peers.batch(224, 224, size=2), steps=1)
    peers.assert_exports_back(pair, build())


@pytest.mark.parametrize("member", peers.with_quick(members.SMALL_RESNETS, "torchvision basic"))
def test_small_resnet(member):
    build, name, source, options = members.SMALL_RESNETS[member]
    pair = peers.make_pair(build(), name, source=source, **options)
    peers.check_all(pair, *peers.batch(48, 32), steps=2)
    peers.assert_exports_back(pair, build())


@pytest.mark.parametrize("member", members.REAL_RESNETS)
def test_resnet_as_published(member):
    source, name = member.split()
    pair = peers.make_pair(members.real_resnet(member), name, source=source)
    # One step: a deep random network makes of 1e-13 in the first 1e-10 in the second.
    peers.check_all(pair, *peers.batch(64, 96), steps=1)
    peers.assert_exports_back(pair, members.real_resnet(member))


@pytest.mark.parametrize("member", ["torchvision resnet18", "torchvision resnet50"])
def test_resnet_at_224(member):
    source, name = member.split()
    pair = peers.make_pair(members.real_resnet(member), name, source=source)
    peers.check_all(pair, *peers.batch(224, 224, size=2), steps=1)


def test_resnet_gradients_in_evaluation():
    pair = peers.make_pair(
        members.torchvision_resnet(), "resnet18", source="torchvision", **members.SHALLOW
    )
    distances = peers.gradient_distances(pair, *peers.batch(48, 32), train=False)
    peers.assert_close(distances, peers.FLOAT64_BAR)


def tanh_gelu(model):
    model.blocks.mlp.activation = jax.nn.gelu


def torch_epsilon(model):
    for norm in (model.blocks.norm1, model.blocks.norm2, model.norm):
        norm.epsilon = 1e-5


@pytest.mark.quick
@pytest.mark.parametrize("trap", [tanh_gelu, torch_epsilon])
def test_a_vit_in_a_trap_does_not_pass(trap):
    build, source, options = members.SMALL_VITS["timm vit"]
    options = {**members.SMALL, "image_size": 32} | options
    pair = peers.make_pair(build(), "vit_ti16", source=source, **options)
    trap(pair.model)
    assert peers.forward_distance(pair, peers.batch(32, 32)[0]) > 1e4 * peers.FLOAT64_BAR
