"""The quick part: the same pairs in float32, small, forward and back out again."""

import numpy as np
import pytest
from parity import members, peers

import jaxvision as jv

load_file = pytest.importorskip("safetensors.torch").load_file
pytestmark = pytest.mark.parity


def vit(member):
    build, source, options = members.SMALL_VITS[member]
    options = {**members.SMALL, "image_size": 32} | options
    return peers.make_pair(build(), "vit_ti16", source=source, dtype="float32", **options), build


def resnet(member):
    build, name, source, options = members.SMALL_RESNETS[member]
    return peers.make_pair(build(), name, source=source, dtype="float32", **options), build


@pytest.mark.parametrize("member", members.SMALL_VITS)
def test_vit(member):
    pair, build = vit(member)
    peers.check_forward(pair, build, peers.batch(*pair.model.config.image_shape)[0])


@pytest.mark.parametrize("member", members.SMALL_RESNETS)
def test_resnet(member):
    peers.check_forward(*resnet(member), peers.batch(48, 32)[0])


def test_the_smallest_as_published():
    def tiny():
        return members.timm.create_model(
            "vit_tiny_patch16_224", num_classes=peers.CLASSES, img_size=48
        )

    pair = peers.make_pair(
        tiny(), "vit_tiny_patch16_224", source="timm", dtype="float32", image_size=48
    )
    peers.check_forward(pair, tiny, peers.batch(48, 48)[0])

    def resnet18():
        return members.torchvision.models.resnet18(num_classes=peers.CLASSES)

    pair = peers.make_pair(resnet18(), "resnet18", source="torchvision", dtype="float32")
    peers.check_forward(pair, resnet18, peers.batch(48, 32)[0])


@pytest.mark.parametrize("make", [vit, resnet])
def test_by_file_there_and_back(make, tmp_path):
    """What a user does: torch.save, load_weights, save_weights, load_state_dict."""
    pair, build = make("timm vit" if make is vit else "torchvision basic")
    peers.torch.save({"model": pair.peer.state_dict(), "epoch": 1}, tmp_path / "in.pth")
    jv.load_weights(pair.model, tmp_path / "in.pth")
    jv.save_weights(pair.model, tmp_path / "out.safetensors", format=pair.source)
    fresh = build()
    fresh.load_state_dict(load_file(tmp_path / "out.safetensors"), strict=True)
    for name, tensor in pair.peer.named_parameters():
        assert peers.torch.equal(fresh.get_parameter(name), tensor)
    assert peers.forward_distance(pair, peers.batch(32, 32)[0], "float32") < peers.FLOAT32_BAR


def swap(peer, one, other):
    state = peer.state_dict()
    state[one], state[other] = state[other].clone(), state[one].clone()
    peer.load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "member", "one", "other"),
    [
        (vit, "timm vit", "blocks.0.norm1.weight", "blocks.0.norm2.weight"),
        (vit, "timm vit", "blocks.0.attn.proj.weight", "blocks.1.attn.proj.weight"),
        (
            vit,
            "torchvision vit",
            "encoder.layers.encoder_layer_0.ln_1.bias",
            "encoder.layers.encoder_layer_0.ln_2.bias",
        ),
        (resnet, "torchvision basic", "layer1.0.bn1.running_mean", "layer1.0.bn2.running_mean"),
        (resnet, "torchvision basic", "layer1.0.bn1.weight", "layer1.0.bn1.running_var"),
    ],
)
def test_a_swapped_pair_of_arrays_does_not_pass(make, member, one, other):
    pair, _ = make(member)
    images, _ = peers.batch(32, 32)
    swap(pair.peer, one, other)
    assert peers.forward_distance(pair, images, "float32") > 100 * peers.FLOAT32_BAR


def test_query_and_key_are_not_mixed_up():
    pair, _ = vit("timm vit")
    attn = pair.model.blocks.attn
    query, key = np.asarray(attn.query.kernel[...]), np.asarray(attn.key.kernel[...])
    attn.query.kernel[...], attn.key.kernel[...] = key, query
    assert peers.forward_distance(pair, peers.batch(32, 32)[0], "float32") > 100 * peers.FLOAT32_BAR
