"""CLIP and SigLIP against transformers in float64, and by the names of open_clip and timm."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import peers

import jaxvision as jv
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.interop.load import load_weights, save_weights
from jaxvision.parity import image_text

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
float64 = pytest.mark.float64

IMAGE = {"width": 48, "depth": 2, "num_heads": 3, "patch_size": 8, "image_size": 32}
TEXT = {
    "vocab_size": 60,
    "max_length": 12,
    "width": 32,
    "depth": 2,
    "num_heads": 2,
    "end_token": 59,
}
SMALL = {
    "clip_vit_b32": TEXT | {"encoder_options": IMAGE, "embed_width": 24},
    "siglip_vit_b16_224": TEXT | {"encoder_options": IMAGE, "embed_width": 48},
}


def pair(name, dtype):
    return image_text.build_image_text_pair(name, dtype=dtype, **SMALL[name])


@float64
@pytest.mark.quick
@pytest.mark.parametrize("name", SMALL)
def test_outputs_loss_gradients_and_steps_in_float64(name):
    both = pair(name, "float64")
    inputs = image_text.batch(both)
    detail = image_text.gradient_detail(both, *inputs)
    detail |= image_text.training_detail(
        both, *inputs, name="adamw", rate=1e-3, weight_decay=0.1, steps=5
    )
    detail |= image_text.training_detail(
        both, *inputs, name="sgd", rate=0.05, weight_decay=1e-3, steps=5
    )
    peers.assert_close({kind: max(each.values()) for kind, each in detail.items()}, 1e-10)


@pytest.mark.parametrize("name", SMALL)
def test_float32_and_names_of_transformers_both_ways(name):
    both = pair(name, "float32")
    detail = image_text.gradient_detail(both, *image_text.batch(both))
    peers.assert_close({kind: max(each.values()) for kind, each in detail.items()}, 1e-4)
    peers.assert_exports_back(both, image_text.hf_model(both.model.config))


def test_each_text_ends_at_its_first_end(name="clip_vit_b32"):
    both = pair(name, "float32")
    _, tokens = image_text.batch(both)
    vectors = both.model.embed_texts(jnp.asarray(tokens))
    behind = tokens.copy()
    for row in behind:
        end = np.argmax(row == 59)
        row[end + 1 :] = 0
    np.testing.assert_array_equal(both.model.embed_texts(jnp.asarray(behind)), vectors)


# --- open_clip and timm -------------------------------------------------------------------------


def open_clip_model(loss):
    """Returns (a model of open_clip, ours of the same shapes)."""
    open_clip = pytest.importorskip("open_clip")
    text = {"context_length": 12, "vocab_size": 60, "width": 32, "heads": 2, "layers": 2}
    if loss == "softmax":
        vision = {"layers": 2, "width": 48, "head_width": 16, "image_size": 32, "patch_size": 8}
        peer = open_clip.model.CLIP(
            24,
            open_clip.model.CLIPVisionCfg(**vision),
            open_clip.model.CLIPTextCfg(**text),
            quick_gelu=True,
        )
        return peer, jv.create_model("clip_vit_b32", rngs=nnx.Rngs(0), **SMALL["clip_vit_b32"])
    trunk = {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"}
    peer = open_clip.model.CustomTextCLIP(
        64,
        open_clip.model.CLIPVisionCfg(**trunk),
        open_clip.model.CLIPTextCfg(
            **text,
            no_causal_mask=True,
            proj_bias=True,
            pool_type="last",
            norm_kwargs={"eps": 1e-6},
            act_kwargs={"approximate": "tanh"},
        ),
        init_logit_bias=-10.0,
    )
    has_token = peer.visual.trunk.cls_token is not None
    options = {"encoder": "vit_ti16"}
    options["encoder_options"] = {
        "pool": "attention",
        "class_token": has_token,
        **{"width": 64, "depth": 6, "num_heads": 2, "mlp_ratio": 3.0, "image_size": 160},
    }
    ours = TEXT | {"embed_width": 64} | options
    return peer, jv.create_model("siglip_vit_b16_224", rngs=nnx.Rngs(0), **ours)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_names_of_open_clip_both_ways(loss, tmp_path):
    peer, model = open_clip_model(loss)
    peer = peer.eval()
    peers.randomise(peer)
    weights = peers.arrays(peer.state_dict())
    report = assign_weights(model, weights)
    assert report.source == "open_clip" and not report.adapted and not report.left_out
    back = extract_weights(model, format="open_clip")
    assert set(back) == set(weights)
    assert all(np.array_equal(back[name], array) for name, array in weights.items())
    peer.load_state_dict({n: torch.from_numpy(a) for n, a in back.items()}, strict=True)

    rng = np.random.default_rng(0)
    side = model.encoder.config.image_size
    images = rng.standard_normal((3, side, side, 3)).astype(np.float32)
    tokens = rng.integers(1, 59, (3, 12))
    tokens[:, 9] = 59
    tokens[:, 10:] = 0
    with torch.no_grad():
        image = peer.encode_image(peers.to_torch(images, "float32"), normalize=True).numpy()
        text = peer.encode_text(torch.from_numpy(tokens), normalize=True).numpy()
    ours = model.embed_images(jnp.asarray(images)), model.embed_texts(jnp.asarray(tokens))
    assert peers.distance(ours[0], image) < 2e-5 and peers.distance(ours[1], text) < 2e-5

    # From a file, for images of another size.
    save_weights(model, tmp_path / "open_clip.safetensors", format="open_clip")
    options = dict(model.config.encoder_options) | {"image_size": 64}
    larger = type(model)(
        dataclasses.replace(model.config, encoder_options=options), rngs=nnx.Rngs(1)
    )
    report = load_weights(larger, tmp_path / "open_clip.safetensors")
    assert report.source == "open_clip" and set(report.adapted) == {"encoder/pos_embed"}
