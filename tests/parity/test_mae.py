"""The masked autoencoder against transformers, given the same noise; and its encoder in timm."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from parity import peers

import jaxvision as jv
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.interop.load import load_weights, save_weights
from jaxvision.layers.position import sincos_2d
from jaxvision.options.optimizer import OptimizerOptions
from jaxvision.train.optim.optimizer import make_optimizer, not_decayed_names

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
float64 = pytest.mark.float64

SMALL = {
    "width": 48,
    "depth": 2,
    "num_heads": 3,
    "patch_size": 8,
    "image_size": 32,
    "norm_eps": 1e-12,
    "decoder_width": 32,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
}


def hf_mae(norm_pixels=True):
    return transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=192,
            image_size=32,
            patch_size=8,
            decoder_hidden_size=32,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=128,
            norm_pix_loss=norm_pixels,
        )
    )


def pair(dtype, norm_pixels=True):
    options = SMALL | {"norm_pixels": norm_pixels}
    return peers.make_pair(hf_mae(norm_pixels), "mae_vit_s16", source="hf", dtype=dtype, **options)


def inputs(dtype, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((4, 32, 32, 3)).astype(dtype)
    return images, rng.random((4, 16)).astype(dtype)


def torch_loss(peer, images, noise):
    return peer(peers.to_torch(images, str(images.dtype)), noise=torch.from_numpy(noise))


def our_loss(graphdef, params, images, noise):
    model = nnx.merge(graphdef, params, {}, copy=True)
    pixels, masked = model.reconstruct(images, noise)
    return jnp.mean(model.losses(pixels, masked, images)), (pixels, masked)


value_and_grad = jax.jit(jax.value_and_grad(our_loss, argnums=1, has_aux=True), static_argnums=0)


def compare(pair, images, noise):
    theirs = torch_loss(pair.peer, images, noise)
    graphdef, params, _ = peers.split(pair.model)
    (loss, (pixels, masked)), grads = value_and_grad(graphdef, params, images, noise)
    assert np.array_equal(masked, theirs.mask.numpy() == 1)
    pair.peer.zero_grad()
    theirs.loss.backward()
    learned = {n: p.grad for n, p in pair.peer.named_parameters() if p.grad is not None}
    assert {n for n, _ in pair.peer.named_parameters()} - set(learned) == {
        "vit.embeddings.position_embeddings",
        "decoder.decoder_pos_embed",
    }
    ours = pair.export(grads, {})
    return {
        "reconstruction": peers.distance(pixels, theirs.logits.detach().numpy()),
        "loss": peers.distance(loss, theirs.loss.detach().numpy()),
        "gradients": peers.worst({n: ours[n] for n in learned}, peers.arrays(learned)),
    }


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_mae(norm_pixels):
    peers.assert_close(compare(pair("float32", norm_pixels), *inputs("float32")), 2e-5)


@float64
@pytest.mark.quick
@pytest.mark.parametrize("norm_pixels", [True, False])
def test_mae_in_float64(norm_pixels):
    peers.assert_close(compare(pair("float64", norm_pixels), *inputs("float64")), peers.FLOAT64_BAR)


@float64
@pytest.mark.quick
def test_twenty_training_steps_in_float64():
    both = pair("float64")
    peer = copy.deepcopy(both.peer).train()
    optimizer = peers.torch_optimizer(peer, "adamw", rate=1e-3, weight_decay=0.05)
    graphdef, params, _ = peers.split(both.model)
    frozen = both.model.frozen_prefixes
    labels = jax.tree_util.tree_map_with_path(
        lambda path, _: "/".join(str(key.key) for key in path) in frozen, params
    )
    options = OptimizerOptions(name="adamw", weight_decay=0.05, eps=peers.ADAM_EPS)
    tx = optax.partition(
        {
            True: optax.set_to_zero(),
            False: make_optimizer(
                params,
                options,
                schedule=optax.constant_schedule(1e-3),
                not_decayed=not_decayed_names(both.model),
            ),
        },
        labels,
    )
    state = tx.init(params)
    update = jax.jit(tx.update)
    before = peers.arrays(both.peer.state_dict())
    for step in range(20):
        images, noise = inputs("float64", seed=step)
        optimizer.zero_grad()
        torch_loss(peer, images, noise).loss.backward()
        optimizer.step()
        _, grads = value_and_grad(graphdef, params, images, noise)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    ours, theirs = both.export(params, {}), peers.arrays(peer.state_dict())
    assert peers.worst(ours, before) > 1e-2
    peers.assert_close({"parameters": peers.worst(ours, theirs)}, peers.FLOAT64_BAR)
    for name in ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"):
        assert np.array_equal(ours[name], before[name])


def test_positions_are_those_of_transformers():
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    theirs = build_2d_sinusoidal_position_embedding(height=3, width=5, embed_dim=48).numpy()
    theirs = np.concatenate([theirs[:, 24:], theirs[:, :24]], axis=1)  # as published files have it
    np.testing.assert_allclose(sincos_2d(3, 5, 48, with_longest=False), theirs, atol=1e-6)


def test_official_names(tmp_path):
    """A file in the layout of the paper's code, whose encoder timm opens with strict=True."""
    timm = pytest.importorskip("timm")
    model = jv.create_model("mae_vit_s16", rngs=nnx.Rngs(0), **SMALL | {"norm_eps": 1e-6})
    weights = extract_weights(model, format="mae")
    encoder = timm.create_model(
        "vit_small_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
        num_classes=0,
    )
    own = {n: a for n, a in weights.items() if not n.startswith("decoder_") and n != "mask_token"}
    assert len(own) == len(encoder.state_dict())
    encoder.load_state_dict({n: torch.from_numpy(a) for n, a in own.items()}, strict=True)
    block = timm.models.vision_transformer.Block(32, 2, qkv_bias=True)
    wanted = {f"decoder_blocks.{i}.{n}" for i in range(2) for n in block.state_dict()}
    wanted |= {f"decoder_{n}.{p}" for n in ("embed", "norm", "pred") for p in ("weight", "bias")}
    assert set(weights) - set(own) == wanted | {"mask_token", "decoder_pos_embed"}

    file = tmp_path / "mae_pretrain_full.pth"
    torch.save({"model": {n: torch.from_numpy(a) for n, a in weights.items()}}, file)
    again = jv.create_model("mae_vit_s16", rngs=nnx.Rngs(1), **SMALL | {"norm_eps": 1e-6})
    report = load_weights(again, file)
    assert report.source == "mae" and not report.adapted
    back = extract_weights(again, format="mae")
    assert all(np.array_equal(back[name], array) for name, array in weights.items())

    # The encoder goes on into fine-tuning, from such a file and from our own.
    images = jnp.asarray(inputs("float32")[0])
    vit = {n: SMALL[n] for n in ("width", "depth", "num_heads", "patch_size", "image_size")}
    save_weights(model, tmp_path / "own.safetensors", format="mae")
    for path in (file, tmp_path / "own.safetensors"):
        tuned = jv.create_model("vit_s16", num_classes=7, rngs=nnx.Rngs(2), **vit)
        load_weights(tuned, path)
        np.testing.assert_array_equal(tuned.features(images), model.features(images))
    with torch.no_grad():
        theirs = encoder.forward_features(peers.to_torch(np.asarray(images), "float32")).numpy()
    assert peers.distance(model.features(images), theirs) < peers.FLOAT32_BAR


def test_files_of_transformers_before_5():
    both = pair("float32")
    weights = peers.arrays(both.peer.state_dict())
    old = {}
    for name, array in weights.items():
        name = name.replace("vit.layers.", "vit.encoder.layer.")
        for new, before in (
            ("attention.q_proj", "attention.attention.query"),
            ("attention.k_proj", "attention.attention.key"),
            ("attention.v_proj", "attention.attention.value"),
            ("attention.o_proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):
            name = name.replace(new, before)
        old[name] = array
    assert set(old) & set(weights) != set(old)
    model = jv.create_model("mae_vit_s16", rngs=nnx.Rngs(0), **SMALL)
    report = assign_weights(model, old)
    assert report.source == "hf" and not report.adapted
    back = extract_weights(model, format="hf")
    assert all(np.array_equal(back[name], array) for name, array in weights.items())
