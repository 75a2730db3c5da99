"""DeiT and DeiT-III against timm and transformers."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from parity import peers

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
float64 = pytest.mark.float64

SMALL = {"width": 48, "depth": 2, "num_heads": 3, "patch_size": 8, "image_size": 32}


def timm_small(name, image_size=32):
    return timm.create_model(
        name,
        num_classes=peers.CLASSES,
        img_size=image_size,
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
    )


def hf_config(width=48, depth=2, heads=3, patch_size=8, image_size=32):
    return transformers.DeiTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        patch_size=patch_size,
        image_size=image_size,
        num_labels=peers.CLASSES,
    )


def hf_two_heads(**options):
    return transformers.DeiTForImageClassificationWithTeacher(hf_config(**options))


def hf_one_head(**options):
    return transformers.DeiTForImageClassification(hf_config(**options))


timm_distilled = functools.partial(timm_small, "deit_tiny_distilled_patch16_224")
timm_third = functools.partial(timm_small, "deit3_small_patch16_224")
HF_EPS = {"norm_eps": 1e-12}
MEMBERS = {
    "timm distilled": (timm_distilled, "deit_ti16_distilled", "timm", {}),
    "timm distilled, not square": (
        lambda: timm_distilled(image_size=(16, 40)),
        "deit_ti16_distilled",
        "timm",
        {"image_size": (16, 40)},
    ),
    "timm third": (timm_third, "deit3_s16", "timm", {}),
    "timm third, not square": (
        lambda: timm_third(image_size=(16, 40)),
        "deit3_s16",
        "timm",
        {"image_size": (16, 40)},
    ),
    "hf with teacher": (hf_two_heads, "deit_ti16_distilled", "hf", HF_EPS),
    "hf one head": (
        hf_one_head,
        "deit_ti16_distilled",
        "hf",
        {**HF_EPS, "distillation_head": False},
    ),
}


def make_pair(member, dtype="float64"):
    build, name, source, options = MEMBERS[member]
    pair = peers.make_pair(build(), name, source=source, dtype=dtype, **(SMALL | options))
    return pair, build


@pytest.mark.parametrize("member", MEMBERS)
def test_small_in_float32(member):
    pair, build = make_pair(member, "float32")
    peers.check_forward(pair, build, peers.batch(*pair.model.config.image_shape)[0])


@float64
@pytest.mark.parametrize("member", peers.with_quick(MEMBERS, "timm distilled", "hf with teacher"))
def test_small(member):
    pair, build = make_pair(member)
    peers.check_all(pair, *peers.batch(*pair.model.config.image_shape), steps=2)
    peers.assert_exports_back(pair, build())


@float64
@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"]
)
def test_timm_as_published(name):
    def build():
        return timm.create_model(name, num_classes=peers.CLASSES)

    pair = peers.make_pair(build(), name, source="timm")
    peers.check_all(pair, *peers.batch(224, 224, size=2), steps=1)
    peers.assert_exports_back(pair, build())


@float64
def test_transformers_as_published():
    """facebook/deit-tiny-distilled-patch16-224."""

    def build():
        return hf_two_heads(width=192, depth=12, heads=3, patch_size=16, image_size=224)

    pair = peers.make_pair(build(), "deit_ti16_distilled", source="hf", norm_eps=1e-12)
    peers.check_all(pair, *peers.batch(224, 224, size=2), steps=1)
    peers.assert_exports_back(pair, build())


@pytest.mark.parametrize("train", [False, True])
def test_both_heads(train):
    pair, _ = make_pair("timm distilled", "float32")
    images = peers.batch(32, 32)[0]
    pair.peer.set_distilled_training(True)
    tensors = peers.to_torch(images, "float32")
    with torch.no_grad():
        theirs = pair.peer.train()(tensors)  # the pair comes out in training only
    ours = pair.model.heads(jnp.asarray(images, "float32"), train=train)
    for one, other in zip(ours, theirs, strict=True):
        assert peers.distance(one, other.numpy()) < peers.FLOAT32_BAR
    mean = pair.model(jnp.asarray(images, "float32"), train=train)
    np.testing.assert_allclose(mean, (ours[0] + ours[1]) / 2, rtol=1e-5, atol=1e-5)


def test_files_of_the_first_deit_3():
    """The authors' own files have no module around LayerScale; timm renames it on loading."""
    pair, build = make_pair("timm third", "float32")
    state = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
        for name, tensor in pair.peer.state_dict().items()
    }
    assert any("gamma_1" in name for name in state)
    fresh = build()
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(
        state, fresh, adapt_layer_scale=True
    )
    fresh.load_state_dict(filtered, strict=True)
    from jaxvision.interop.assign import assign_weights, extract_weights

    assign_weights(pair.model, peers.arrays(state))
    for name, array in extract_weights(pair.model).items():
        np.testing.assert_array_equal(array, fresh.state_dict()[name].numpy())


def test_one_head_is_not_the_mean_of_two():
    pair, _ = make_pair("hf with teacher", "float32")
    images = jnp.asarray(peers.batch(32, 32)[0], "float32")
    class_logits, _ = pair.model.heads(images)
    assert peers.distance(class_logits, np.asarray(pair.model(images))) > 0.01
