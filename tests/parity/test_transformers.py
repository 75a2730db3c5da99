"""ViT and ResNet against transformers; DeiT, which has more to it, has a file of its own."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from interop import helpers
from parity import peers

import jaxvision as jv
from jaxvision.interop.assign import assign_weights

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
float64 = pytest.mark.float64

VIT = {
    "width": 48,
    "depth": 2,
    "num_heads": 3,
    "patch_size": 8,
    "image_size": 32,
    "norm_eps": 1e-12,
}


def hf_vit(width=48, depth=2, patch_size=8, image_size=32):
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=3,
            intermediate_size=4 * width,
            patch_size=patch_size,
            image_size=image_size,
            num_labels=peers.CLASSES,
        )
    )


class HFPooled(torch.nn.Module):
    """What programs make of a ViTModel and its pooler; transformers' own classifier has none."""

    def __init__(self):
        super().__init__()
        self.vit = transformers.ViTModel(hf_vit().config)
        self.classifier = torch.nn.Linear(48, peers.CLASSES)

    def forward(self, images):
        return self.classifier(self.vit(images).pooler_output)


def hf_resnet(layer_type="basic", widths=(64, 128, 256, 512), depths=(1, 1, 1, 1), **options):
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            layer_type=layer_type,
            hidden_sizes=widths,
            depths=depths,
            num_labels=peers.CLASSES,
            **options,
        )
    )


def hf_bottleneck():
    return hf_resnet("bottleneck", widths=(256, 512, 1024, 2048))


SHALLOW = {"stage_depths": (1, 1, 1, 1)}
MEMBERS = {
    "vit": (hf_vit, "vit_ti16", VIT, (32, 32)),
    "vit, pooler": (HFPooled, "vit_ti16", {**VIT, "pooler": True}, (32, 32)),
    "vit, not square": (
        lambda: hf_vit(image_size=(16, 40)),
        "vit_ti16",
        {**VIT, "image_size": (16, 40)},
        (16, 40),
    ),
    "resnet basic": (hf_resnet, "resnet18", SHALLOW, (48, 32)),
    "resnet bottleneck": (hf_bottleneck, "resnet50", SHALLOW, (48, 32)),
    "resnet smaller at once": (
        lambda: hf_resnet(downsample_in_first_stage=True),
        "resnet18",
        {**SHALLOW, "first_stride": 2},
        (96, 64),
    ),
}


def make_pair(member, dtype="float64"):
    build, name, options, _ = MEMBERS[member]
    return peers.make_pair(build(), name, source="hf", dtype=dtype, **options), build


@pytest.mark.parametrize("member", ["vit", "vit, not square", "resnet basic"])
def test_small_in_float32(member):
    pair, build = make_pair(member, "float32")
    peers.check_forward(pair, build, peers.batch(*MEMBERS[member][-1])[0])


@float64
@pytest.mark.parametrize("member", peers.with_quick(MEMBERS, "vit"))
def test_small(member):
    pair, build = make_pair(member)
    peers.check_all(pair, *peers.batch(*MEMBERS[member][-1]), steps=2)
    peers.assert_exports_back(pair, build())


@float64
def test_vit_as_published():
    """facebook/deit-tiny-patch16-224, which is a ViTForImageClassification."""

    def build():
        return hf_vit(width=192, depth=12, patch_size=16, image_size=224)

    pair = peers.make_pair(build(), "deit_ti16", source="hf", norm_eps=1e-12)
    peers.check_all(pair, *peers.batch(224, 224, size=2), steps=1)
    peers.assert_exports_back(pair, build())


@float64
def test_resnet_as_published():
    """microsoft/resnet-18."""

    def build():
        return hf_resnet(depths=(2, 2, 2, 2))

    pair = peers.make_pair(build(), "microsoft/resnet-18", source="hf")
    peers.check_all(pair, *peers.batch(224, 224, size=2), steps=1)
    peers.assert_exports_back(pair, build())


@pytest.mark.parametrize("member", ["vit", "resnet basic"])
def test_from_pretrained_reads_what_we_write(member, tmp_path):
    pair, _ = make_pair(member, "float32")
    pair.peer.config.save_pretrained(tmp_path)
    jv.save_weights(pair.model, tmp_path / "model.safetensors", format="hf")
    again, report = type(pair.peer).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for name, tensor in pair.peer.named_parameters():
        assert torch.equal(tensor, again.get_parameter(name)), name


@pytest.mark.parametrize("member", ["vit", "resnet basic"])
def test_we_read_what_save_pretrained_writes(member, tmp_path):
    """transformers writes the names that a ViT had before version 5."""
    pair, _ = make_pair(member, "float32")
    pair.peer.save_pretrained(tmp_path)
    before = helpers.leaves(pair.model)
    nnx.update(pair.model, jax.tree.map(jnp.zeros_like, nnx.state(pair.model)))
    report = jv.load_weights(pair.model, tmp_path / "model.safetensors")
    assert report.source == "hf" and not report.left_out and not report.notes
    assert helpers.same(before, helpers.leaves(pair.model))


def test_an_encoder_without_a_head(tmp_path):
    """google/vit-base-patch16-224-in21k is a ViTModel: another prefix, a pooler, no classifier."""
    pair, _ = make_pair("vit", "float32")
    encoder = transformers.ViTModel(pair.peer.config)
    encoder.load_state_dict(pair.peer.vit.state_dict(), strict=False)
    report = assign_weights(pair.model, peers.arrays(encoder.state_dict()))
    assert report.source == "hf"
    assert set(report.left_out) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert report.adapted == {"head": "the file has none, the model keeps its own"}
    assert peers.forward_distance(pair, peers.batch(32, 32)[0], "float32") < peers.FLOAT32_BAR


def test_an_encoder_with_its_pooler():
    """What our model without a head returns is the `pooler_output`."""
    build, name, options, _ = MEMBERS["vit, pooler"]
    pair = peers.make_pair(build(), name, source="hf", dtype="float32", **options)
    encoder = pair.peer.vit
    model = jv.create_model(name, num_classes=0, rngs=nnx.Rngs(0), **options)
    report = assign_weights(model, peers.arrays(encoder.state_dict()))
    assert not report.left_out
    images = peers.batch(32, 32)[0]
    with torch.no_grad():
        theirs = encoder(peers.to_torch(images, "float32")).pooler_output
    ours = peers.forward(model, jnp.asarray(images, "float32"))
    assert peers.distance(ours, theirs.numpy()) < peers.FLOAT32_BAR
    headed = jv.create_model(name, num_classes=3, rngs=nnx.Rngs(0), **options)
    report = assign_weights(headed, peers.arrays(encoder.state_dict()))
    assert report.adapted == {"head": "the file has none, the model keeps its own"}
    assert not report.left_out


def test_the_usual_epsilon_is_noted():
    build, name, options, _ = MEMBERS["vit"]
    weights = peers.arrays(build().state_dict())
    model = jv.create_model(
        name, num_classes=10, rngs=nnx.Rngs(0), **(options | {"norm_eps": 1e-6})
    )
    report = assign_weights(model, weights)
    assert report.notes == ("the model has norm_eps=1e-06, hf usually 1e-12",)
    assert report.notes[0] in str(report)
    assert jv.get_spec("google/vit-base-patch16-224").config.norm_eps == 1e-12


def test_positions_as_transformers_resizes_them():
    pair, _ = make_pair("vit", "float32")
    build, name, options, _ = MEMBERS["vit"]
    images = peers.batch(48, 64)[0]
    model = jv.create_model(
        name, num_classes=10, rngs=nnx.Rngs(0), **(options | {"image_size": (48, 64)})
    )
    weights = peers.arrays(pair.peer.state_dict())
    report = assign_weights(model, weights, image_size=options["image_size"])
    assert "from 4 x 4 to 6 x 8, bicubic" in report.adapted["pos_embed"]
    with torch.no_grad():
        theirs = pair.peer(peers.to_torch(images, "float32"), interpolate_pos_encoding=True).logits
    ours = peers.forward(model, jnp.asarray(images, "float32"))
    assert peers.distance(ours, theirs.numpy()) < peers.FLOAT32_BAR
