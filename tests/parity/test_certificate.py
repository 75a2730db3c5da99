"""The certificate: it passes a pair that agrees, and names what is wrong with one that does not."""

import numpy as np
import pytest

from jaxvision.errors import InputError

pytest.importorskip("torch")
pytestmark = pytest.mark.parity

from parity import members, peers  # noqa: E402

from jaxvision.parity import certificate as parity_report  # noqa: E402
from jaxvision.parity import peers as parity_peers  # noqa: E402
from jaxvision.parity.layers import compare_layers  # noqa: E402

SMALL = {
    "vit": (
        lambda: members.timm_vit(),
        "vit_ti16",
        "timm",
        {**members.SMALL, "image_size": 32},
    ),
    "torchvision vit": (
        lambda: members.torchvision_vit(),
        "vit_b16",
        "torchvision",
        {**members.SMALL, "image_size": 32},
    ),
    "resnet": (members.torchvision_resnet, "resnet18", "torchvision", members.SHALLOW),
}


def small_pair(member, dtype="float32"):
    build, name, source, options = SMALL[member]
    return peers.make_pair(build(), name, source=source, dtype=dtype, **options)


def swap(pair, one, other):
    state = pair.peer.state_dict()
    state[one], state[other] = state[other].clone(), state[one].clone()
    pair.peer.load_state_dict(state)


def test_layers_that_correspond():
    images, _ = peers.batch(32, 32, size=2)
    layers = {layer.theirs: layer for layer in compare_layers(small_pair("vit"), images)}
    qkv = " + ".join(f"blocks.1.attn.{name}" for name in ("query", "key", "value"))
    expected = {
        "patch_embed.proj": "patch_embed",
        "blocks.0.norm1": "blocks.0.norm1",
        "blocks.1.attn.qkv": qkv,
        "blocks.1.attn": "blocks.1.attn",
        "blocks.1.mlp.fc2": "blocks.1.mlp.fc2",
        "blocks.1": "blocks.1",
        "head": "head",
    }
    assert expected.items() <= {name: layer.ours for name, layer in layers.items()}.items()
    assert list(layers)[0] == "patch_embed.proj" and list(layers)[-1] == "head"
    assert max(layer.distance for layer in layers.values()) < peers.FLOAT32_BAR

    # torchvision's attention is one module that never calls its parts.
    layers = {x.theirs: x.ours for x in compare_layers(small_pair("torchvision vit"), images)}
    assert layers["encoder.layers.encoder_layer_1.self_attention"] == "blocks.1.attn"
    assert "encoder.layers.encoder_layer_1.self_attention.out_proj" not in layers


@pytest.mark.parametrize(
    ("member", "one", "other", "first"),
    [
        ("vit", "blocks.0.norm1.weight", "blocks.1.norm1.weight", "blocks.0.norm1"),
        ("vit", "blocks.1.mlp.fc1.bias", "blocks.0.mlp.fc1.bias", "blocks.0.mlp.fc1"),
        ("resnet", "layer2.0.bn1.running_mean", "layer2.0.bn2.running_mean", "layer2.0.bn1"),
        ("resnet", "layer3.0.bn1.weight", "layer3.0.bn1.running_var", "layer3.0.bn1"),
    ],
)
def test_a_swapped_pair_of_arrays_is_named(member, one, other, first):
    pair = small_pair(member)
    images, labels = peers.batch(32, 32, size=2)
    swap(pair, one, other)
    certificate = parity_report.certify(pair, images, labels)
    assert not certificate.passed
    assert certificate.first_layer and certificate.first_layer.theirs == first
    text = parity_report.certificate_text(certificate).splitlines()[-1]
    ours = certificate.first_layer.ours
    assert text.startswith(f"They disagree: the first layer that disagrees is {first}, here {ours}")


def test_what_agrees_in_evaluation_may_disagree_in_training():
    pair = small_pair("resnet")
    images, labels = peers.batch(32, 32, size=2)
    pair.model.stem.norm.momentum = 0.2
    certificate = parity_report.certify(pair, images, labels)
    assert certificate.first_layer is None and not certificate.passed
    assert "no layer disagrees in evaluation" in parity_report.verdict(certificate)
    place = certificate.places["sgd running statistics"]
    assert place.startswith("bn1.running_") and place in parity_report.verdict(certificate)


@pytest.mark.float64
@pytest.mark.parametrize("member", peers.with_quick(SMALL, "vit"))
def test_a_pair_that_agrees_passes(member):
    pair = small_pair(member, "float64")
    certificate = parity_report.certify(pair, *peers.batch(32, 32, size=2))
    assert certificate.passed and certificate.first_layer is None
    kinds = {"evaluation logits", "training logits", "image gradient", "parameter gradients"}
    assert kinds | {"adamw parameters", "sgd parameters"} <= set(certificate.distances)
    assert ("sgd running statistics" in certificate.distances) == (member == "resnet")
    assert "They agree" in parity_report.certificate_text(certificate)
    name = SMALL[member][1]
    table = parity_report.certificates_table([(name, pair.source, certificate)])
    assert table.count("\n") == 2 and f"`{name}`" in table


def test_what_is_compared():
    assert list(parity_report.pairs("resnet50", None))[:2] == [
        ("resnet50", "timm"),
        ("resnet50", "torchvision"),
    ]
    assert list(parity_report.pairs("vit_s16", "timm")) == [("vit_s16", "timm")]
    everything = list(parity_report.pairs(None, None))
    assert {("resnet18", "torchvision"), ("vit_ti16", "timm")} <= set(everything)
    assert len(everything) == len(set(everything))
    with pytest.raises(InputError, match="vit_ti16 has a peer in timm.*--against"):
        parity_peers.build_pair("vit_ti16", "torchvision", height=32, width=32)


def test_nothing_is_dropped():
    dropout = peers.torch.nn.Sequential(peers.torch.nn.Dropout(0.5), peers.torch.nn.Linear(2, 2))
    parity_peers.drop_nothing(dropout)
    ones = peers.torch.ones(1, 2)
    assert np.array_equal(dropout.train()[0](ones), ones)
