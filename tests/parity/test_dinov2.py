"""DINOv2 against timm and transformers, and the names of the authors' own files."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from interop import helpers
from parity import peers
from timm.models.vision_transformer import checkpoint_filter_fn

import jaxvision as jv
from jaxvision.interop.assign import assign_weights

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
float64 = pytest.mark.float64

SMALL: dict[str, Any] = {"width": 48, "depth": 2, "num_heads": 3, "image_size": 42}
SIZE = (42, 42)
NAMES = {
    "small": ("dinov2_s14", "vit_small_patch14_dinov2"),
    "registers": ("dinov2_s14_reg4", "vit_small_patch14_reg4_dinov2"),
    "giant": ("dinov2_g14_reg4", "vit_giant_patch14_reg4_dinov2"),
}


def timm_small(name, image_size=42, num_classes=peers.CLASSES):
    sizes = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    return timm.create_model(name, num_classes=num_classes, img_size=image_size, **sizes)


class Dinov2ClassToken(transformers.Dinov2Model):
    """The encoder of transformers; its own classifier reads more than our head does."""

    def forward(self, pixel_values):
        return super().forward(pixel_values).last_hidden_state[:, 0]


class RegistersClassToken(transformers.Dinov2WithRegistersModel):
    def forward(self, pixel_values):
        return super().forward(pixel_values).last_hidden_state[:, 0]


def hf_small(registers=0, gated=False):
    fields = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 42,
        "patch_size": 14,
        "use_swiglu_ffn": gated,
    }
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**fields, num_register_tokens=registers)
        return RegistersClassToken(config)
    return Dinov2ClassToken(transformers.Dinov2Config(**fields))


def hf_pair(registers=0, gated=False, dtype="float64"):
    name = "dinov2_g14" if gated else "dinov2_s14"
    name += "_reg4" if registers else ""
    peer = hf_small(registers, gated)
    options = {**SMALL, "num_classes": 0}
    pair = peers.make_pair(peer, name, source="hf", dtype=dtype, **options)
    torch.nn.init.zeros_(peer.embeddings.mask_token)  # is written as zeros: nobody reads it
    return name, pair, peer


def headless(name, **options):
    return jv.create_model(name, rngs=nnx.Rngs(0), **{**SMALL, **options})


@float64
@pytest.mark.parametrize("member", peers.with_quick(NAMES, "registers"))
def test_timm(member):
    ours, theirs = NAMES[member]
    pair = peers.make_pair(timm_small(theirs), ours, source="timm", **SMALL)
    peers.check_all(pair, *peers.batch(*SIZE), steps=2)
    peers.assert_exports_back(pair, timm_small(theirs))


@float64
@pytest.mark.parametrize("gated", [False, True])
def test_transformers(gated):
    _, pair, _ = hf_pair(gated=gated)
    peers.check_all(pair, *peers.batch(*SIZE), steps=2)
    peers.assert_exports_back(pair, hf_small(gated=gated))


@pytest.mark.parametrize("gated", [False, True])
def test_transformers_with_registers(gated, tmp_path):
    """The class token's position goes into the token; what we write computes the same there."""
    _, pair, peer = hf_pair(registers=4, gated=gated, dtype="float32")
    images = peers.batch(*SIZE)[0]
    assert peers.forward_distance(pair, images, "float32") < peers.FLOAT32_BAR
    jv.save_weights(pair.model, tmp_path / "model.safetensors", format="hf")
    peer.config.save_pretrained(tmp_path)
    again, report = type(peer).__base__.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert not again.embeddings.position_embeddings[:, 0].any()
    with torch.no_grad():
        theirs = again(peers.to_torch(images, "float32")).pooler_output
    ours = peers.forward(pair.model, jnp.asarray(images, "float32"))
    assert peers.distance(ours, theirs.numpy()) < peers.FLOAT32_BAR


@pytest.mark.parametrize("registers", [0, 4])
def test_we_read_what_save_pretrained_writes(registers, tmp_path):
    """transformers writes the names that it had before version 5, a gated MLP's as one layer."""
    name, pair, peer = hf_pair(registers, gated=True, dtype="float32")
    peer.save_pretrained(tmp_path)
    model = headless(name)
    report = jv.load_weights(model, tmp_path / "model.safetensors")
    assert report.source == "hf" and not report.left_out
    assert helpers.same(helpers.leaves(pair.model), helpers.leaves(model))


@pytest.mark.parametrize("registers", [0, 4])
def test_positions_as_transformers_resizes_them(registers):
    name, _, peer = hf_pair(registers, dtype="float32")
    model = headless(name, image_size=(56, 70))
    report = assign_weights(model, peers.arrays(peer.state_dict()), image_size=42)
    assert "from 3 x 3 to 4 x 5, bicubic" in report.adapted["pos_embed"]
    images = peers.batch(56, 70)[0]
    with torch.no_grad():
        theirs = peer(peers.to_torch(images, "float32"))
    ours = peers.forward(model, jnp.asarray(images, "float32"))
    assert peers.distance(ours, theirs.numpy()) < peers.FLOAT32_BAR


def test_the_authors_file():
    """timm's own filter tells what their names mean."""
    rng = np.random.default_rng(0)
    peer = timm_small("vit_giant_patch14_reg4_dinov2", num_classes=0)
    authors = {}
    for name, tensor in peer.state_dict().items():
        name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        name = name.replace("reg_token", "register_tokens")
        shape = (1, 10, 48) if name == "pos_embed" else tuple(tensor.shape)
        authors[name] = rng.standard_normal(shape).astype("float32")
    authors["mask_token"] = np.ones((1, 48), np.float32)
    model = headless("dinov2_g14_reg4")
    report = assign_weights(model, authors)
    assert report.source == "timm" and set(report.left_out) <= {"mask_token"}
    peer.load_state_dict(
        checkpoint_filter_fn({n: torch.tensor(a) for n, a in authors.items()}, peer)
    )
    images = peers.batch(*SIZE)[0].astype("float32")
    with torch.no_grad():
        theirs = peer.eval()(peers.to_torch(images, "float32"))
    ours = peers.forward(model, jnp.asarray(images))
    assert peers.distance(ours, theirs.numpy()) < peers.FLOAT32_BAR
