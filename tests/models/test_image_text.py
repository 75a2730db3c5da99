import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.errors import InputError
from jaxvision.models.image_text import ImageText
from jaxvision.options.optimizer import OptimizerOptions
from jaxvision.train.optim.optimizer import make_optimizer

SMALL = {
    "vocab_size": 20,
    "max_length": 6,
    "width": 16,
    "depth": 2,
    "num_heads": 2,
    "embed_width": 8,
    "encoder_options": {"width": 16, "depth": 1, "num_heads": 2, "patch_size": 8, "image_size": 16},
}
IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((3, 16, 16, 3)), jnp.float32)
TOKENS = jnp.asarray([[1, 5, 6, 2, 0, 0], [1, 7, 2, 0, 0, 0], [1, 5, 7, 8, 9, 2]])


@functools.cache
def usual():
    return small()


def small(**options):
    return jv.create_model("image_text", rngs=nnx.Rngs(0), **SMALL | options)


@pytest.mark.parametrize(
    "name", ["clip_vit_b32", "clip_vit_b16", "clip_vit_l14", "siglip_vit_b16_224"]
)
def test_published_number_of_parameters(name):
    spec = jv.get_spec(name)
    model = nnx.eval_shape(lambda: jv.create_model(name, rngs=nnx.Rngs(0)))
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param))) == spec.num_params


@pytest.mark.parametrize(
    "loss, scale, bias", [("softmax", 1 / 0.07, 0.0), ("sigmoid", 10.0, -10.0)]
)
def test_logits_are_scaled_cosines(loss, scale, bias):
    model = small(loss=loss)
    images, texts = model.embed_images(IMAGES), model.embed_texts(TOKENS)
    np.testing.assert_allclose(jnp.linalg.norm(images, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(texts, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(model(IMAGES, TOKENS), scale * images @ texts.T + bias, rtol=1e-4)


def test_what_a_text_sees():
    model = usual()
    vectors = model.embed_texts(TOKENS)
    behind_the_end = TOKENS.at[1, 4].set(9)
    np.testing.assert_array_equal(model.embed_texts(behind_the_end), vectors)
    assert not np.allclose(model.embed_texts(TOKENS.at[1, 1].set(9))[1], vectors[1])
    np.testing.assert_allclose(model.embed_texts(TOKENS[:2, :4]), vectors[:2], atol=1e-6)
    last = small(causal=False, text_pool="last")
    assert not np.allclose(last.embed_texts(behind_the_end)[1], last.embed_texts(TOKENS)[1])
    with pytest.raises(ValueError, match="positions for 6 tokens, got 7"):
        model.embed_texts(jnp.zeros((1, 7), int))


def test_any_trunk_and_features():
    options = {"stage_depths": (1, 1), "stage_widths": (8, 16)}
    model = small(encoder="resnet18", encoder_options=options)
    assert model.embed_images(IMAGES).shape == (3, 8)
    assert jv.models.catalogue.spec_with("image_text", {"encoder": "resnet18"}).preprocess == (
        jv.get_spec("resnet18").preprocess
    )
    given = small(encoder=None, encoder_options={}, feature_width=5)
    features = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 5)), jnp.float32)
    np.testing.assert_allclose(
        given.embed_images(features), given.embed_images(features.mean(1)), atol=1e-6
    )
    with pytest.raises(ValueError, match="Expected features"):
        given.embed_images(IMAGES)


def test_a_frozen_encoder_gets_no_gradient():
    model = small(freeze_encoder=True)
    assert model.frozen_prefixes == ("encoder/",)
    graphdef, params = nnx.split(model, nnx.Param)[:2]

    @jax.jit
    @jax.grad
    def gradient(params):
        return nnx.merge(graphdef, params)(IMAGES, TOKENS).sum()

    grads = nnx.to_pure_dict(gradient(params))
    assert not any(x.any() for x in jax.tree.leaves(grads["encoder"]))
    assert grads["image_head"]["kernel"].any()


def small_bounds(loss):
    return nnx.eval_shape(lambda: small(loss=loss)).upper_bounds


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_scale_stops_at_100_and_comes_back(name):
    bounds = small_bounds("softmax")
    params = {"logit_scale": jnp.zeros(()) + math.log(1 / 0.07), "kernel": jnp.ones((2, 2))}
    tx = make_optimizer(
        params,
        OptimizerOptions(name=name, weight_decay=0.1),
        schedule=optax.constant_schedule(1.0),
        not_decayed=ImageText.not_decayed,
        upper_bounds=bounds,
    )
    state, scales = tx.init(params), []
    for sign in (-1.0, -1.0, -1.0, *[1.0] * 12):  # up, and down again
        grads = jax.tree.map(jnp.zeros_like, params)
        grads["logit_scale"] = jnp.asarray(sign)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        scales.append(float(jnp.exp(params["logit_scale"])))
    assert max(scales) == pytest.approx(100.0, rel=1e-6) and scales[-1] < 99.0
    assert not small_bounds("sigmoid")


def test_what_cannot_be_is_refused():
    for options, words in (
        ({"loss": "hinge"}, "loss must be"),
        ({"text_pool": "mean"}, "text_pool must be"),
        ({"feature_width": 3}, "has an image encoder, or feature_width"),
        ({"project_image": False}, "have 16 channels and the vectors 8"),
        ({"encoder": "captioner"}, "for captioning"),
        ({"activation": "relu"}, "activation must be"),
    ):
        with pytest.raises((InputError, ValueError), match=words):
            small(**options)
