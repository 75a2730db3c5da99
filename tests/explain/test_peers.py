"""Maps against those of pytorch-grad-cam and captum, of the same weights, in float64."""

import logging
import warnings

import numpy as np
import pytest
from parity import members, peers

from jaxvision import explain

pytestmark = [pytest.mark.parity, pytest.mark.float64]
jax, jnp, torch = peers.jax, peers.jnp, peers.torch
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction

    attr = pytest.importorskip("captum.attr")

DTYPE = "float64"
BAR = 1e-10  # the noise is 1e-15
IMAGES = peers.batch(32, 48, size=2)[0].astype(DTYPE)
TARGETS = np.array([3, 7])
SWIN = {"embed_dim": 24, "depths": (2, 3), "num_heads": (3, 6), "num_classes": peers.CLASSES}


def timm_swin():
    module = members.timm.models.swin_transformer.SwinTransformer
    return module(img_size=(32, 48), window_size=2, drop_path_rate=0.0, **SWIN)


def of_tokens(tokens):
    return tokens[:, 1:].reshape(len(tokens), 4, 6, -1).permute(0, 3, 1, 2)


CASES = {  # peer, our name and options, its layer, what makes a map of it
    "resnet": (
        lambda: members.torchvision_resnet(),
        "torchvision",
        ("resnet18", {"stage_depths": (1, 1, 1, 1)}),
        lambda peer, stage: [peer.layer1, peer.layer2, peer.layer3, peer.layer4][stage],
        None,
    ),
    "vit": (
        lambda: members.timm_vit(image_size=(32, 48)),
        "timm",
        ("vit_ti16", members.SMALL | {"image_size": (32, 48)}),
        lambda peer, stage: peer.blocks[stage].norm1,
        of_tokens,
    ),
    "swin": (
        timm_swin,
        "timm",
        (
            "swin_t",
            {"width": 24, "stage_depths": (2, 3), "stage_heads": (3, 6), "window_size": 2}
            | {"windows": "fitted", "image_size": (32, 48)},
        ),
        lambda peer, stage: peer.layers[stage],
        lambda maps: maps.permute(0, 3, 1, 2),
    ),
}


@pytest.fixture(scope="module")
def pair_of():
    pairs = {}

    def make(case):
        if case not in pairs:
            build, source, (name, options), *_ = CASES[case]
            pairs[case] = peers.make_pair(build(), name, source=source, dtype=DTYPE, **options)
        return pairs[case]

    return make


def targets():
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    return [ClassifierOutputTarget(int(target)) for target in TARGETS]


def check(what, ours, theirs, bar=BAR):
    difference = peers.distance(np.asarray(ours), np.asarray(theirs).astype(ours.dtype))
    logging.info("%s: largest difference %.1e", what, difference)
    assert difference <= bar, what


@pytest.mark.parametrize("stage", [-1, 1])
@pytest.mark.parametrize("case", CASES)
def test_grad_cams(pair_of, case, stage):
    pair, layer, shape = pair_of(case), *CASES[case][3:]
    inputs = peers.to_torch(IMAGES, DTYPE)
    if case == "resnet" or stage == -1:
        for name, kind, function in (
            ("Grad-CAM", cam.GradCAM, explain.grad_cam),
            ("Grad-CAM++", cam.GradCAMPlusPlus, explain.grad_cam_plus_plus),
        ):
            peer = kind(pair.peer, [layer(pair.peer, stage)], reshape_transform=shape)
            drawn = peer(inputs, targets())
            hooks = peer.activations_and_grads
            raw = peer.get_cam_image(
                inputs,
                None,
                targets(),
                hooks.activations[0].numpy(),
                hooks.gradients[0].numpy(),
            )
            hooks.release()
            ours = function(pair.model, jnp.asarray(IMAGES), jnp.asarray(TARGETS), stage=stage)
            check(f"{name}, {case}, stage {stage}", ours, np.maximum(raw, 0.0))
            # cv2 resizes in float32.
            check(f"{name}, {case}, drawn", explain.to_image_size(ours, (32, 48)), drawn, 1e-5)
    if case == "resnet" and stage == -1:
        return  # two cells, one as far from their mean as the other: their component has no sign
    maps = hooked(pair.peer, layer(pair.peer, stage), inputs)
    maps = (maps if shape is None else shape(maps)).numpy()
    ours = explain.eigen_cam(pair.model, jnp.asarray(IMAGES), stage=stage)
    theirs = np.maximum(get_2d_projection_with_sign_correction(maps), 0.0)  # float32
    check(f"Eigen-CAM, {case}, stage {stage}", ours, theirs, 2e-5)


def hooked(peer, layer, inputs):
    """Returns what a layer returns."""
    seen = []
    handle = layer.register_forward_hook(lambda module, given, returned: seen.append(returned))
    with torch.no_grad():
        peer(inputs)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("case", ["resnet", "vit"])
def test_what_inputs_add(pair_of, case):
    pair, inputs = pair_of(case), peers.to_torch(IMAGES, DTYPE)
    images, labels = jnp.asarray(IMAGES), jnp.asarray(TARGETS)
    theirs = attr.IntegratedGradients(pair.peer).attribute(
        inputs, target=torch.from_numpy(TARGETS), n_steps=20
    )
    ours = explain.integrated_gradients(pair.model, images, labels, steps=20)
    theirs = theirs.detach().numpy().transpose(0, 2, 3, 1)
    # captum rounds the points of the path to float32.
    check(f"integrated gradients, {case}", ours, theirs, 1e-7)

    seen = []
    handle = pair.peer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    tunnel = attr.NoiseTunnel(attr.Saliency(pair.peer))
    theirs = tunnel.attribute(
        inputs, nt_samples=3, stdevs=0.3, target=torch.from_numpy(TARGETS), abs=False
    )
    handle.remove()
    noisy = seen[0].detach().numpy().transpose(0, 2, 3, 1).reshape(2, 3, *IMAGES.shape[1:])
    noise = (noisy - IMAGES[:, None]).swapaxes(0, 1)
    ours = explain.smooth_grad(pair.model, images, labels, jnp.asarray(noise))
    theirs = theirs.detach().numpy().transpose(0, 2, 3, 1)
    check(f"SmoothGrad, {case}", ours, theirs)

    theirs = attr.Occlusion(pair.peer).attribute(
        inputs,
        sliding_window_shapes=(3, 10, 10),
        strides=(3, 8, 8),
        target=torch.from_numpy(TARGETS),
        perturbations_per_eval=4,
    )
    ours = explain.occlusion(pair.model, images, labels, window=10, stride=8)
    # captum divides in float32.
    theirs = theirs.detach().numpy()[:, 0]
    check(f"occlusion, {case}", ours, theirs, 1e-7)


def test_attention_and_its_gradient(pair_of):
    """The weights that timm's attention drops, and their gradients; rollouts made of them."""
    pair, inputs = pair_of("vit"), peers.to_torch(IMAGES, DTYPE)
    weights = []

    def keep(module, given, returned):
        returned.retain_grad()
        weights.append(returned)

    handles = []
    for block in pair.peer.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_hook(keep))
    logits = pair.peer(inputs)
    logits[torch.arange(2), torch.from_numpy(TARGETS)].sum().backward()
    for handle in handles:
        handle.remove()

    images = jnp.asarray(IMAGES)
    layers = explain.attention_maps(pair.model, images)
    for number, (ours, theirs) in enumerate(zip(layers, weights, strict=True)):
        check(f"attention of block {number}", ours.weights, theirs.detach().numpy())
    eye = torch.eye(25, dtype=weights[0].dtype)
    rolled, relevance = eye, eye
    for each in weights:
        rolled = (each.mean(1) + eye) / 2 @ rolled
        relevance = relevance + (each * each.grad).clamp(min=0).mean(1) @ relevance
    ours = explain.rollout(pair.model, images)
    check("rollout", ours.weights[:, 0], rolled.detach().numpy())
    np.testing.assert_allclose(ours.weights.sum(axis=-1), 1.0, atol=1e-5)
    ours = explain.gradient_rollout(pair.model, images, jnp.asarray(TARGETS))
    check("gradient rollout", ours.weights[:, 0], relevance.detach().numpy())
    assert ours.seen().shape == (2, 1, 4, 6)
