import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.errors import InputError

SMALL = {
    "width": 48,
    "depth": 2,
    "num_heads": 3,
    "patch_size": 8,
    "image_size": 32,
    "decoder_width": 32,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
}


def small(**options):
    return jv.create_model("mae_vit_s16", rngs=nnx.Rngs(0), **SMALL | options)


def noisy_images(batch=3):
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.standard_normal((batch, 32, 32, 3)), jnp.float32),
        jnp.asarray(rng.random((batch, 16)), jnp.float32),
    )


@pytest.mark.parametrize("name", ["mae_vit_b16", "mae_vit_l16", "mae_vit_h14"])
def test_published_number_of_parameters(name):
    spec = jv.get_spec(name)
    model = nnx.eval_shape(lambda: jv.create_model(name, rngs=nnx.Rngs(0)))
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param))) == spec.num_params


def test_only_the_visible_patches_are_encoded():
    model, (images, noise) = small(), noisy_images()
    pixels, masked = model.reconstruct(images, noise)
    assert pixels.shape == (3, 16, 8 * 8 * 3)
    assert np.array_equal(np.sum(masked, axis=1), [12] * 3)
    least = np.argsort(noise, axis=1)[:, :4]
    assert not np.take_along_axis(np.asarray(masked), least, axis=1).any()
    # What is masked may be anything, and what is seen may not.
    hidden = model.spread_mask(masked)
    others = jnp.where(hidden, 7.0, images)
    np.testing.assert_array_equal(model.reconstruct(others, noise)[0], pixels)
    others = jnp.where(hidden, images, images + 0.1)
    assert np.abs(model.reconstruct(others, noise)[0] - pixels).min(axis=(1, 2)).max() > 0


def test_blocks_see_a_quarter_of_the_tokens():
    """The saving: of 196 patches the encoder's products are of 1 + 49 tokens."""
    model = nnx.eval_shape(lambda: jv.create_model("mae_vit_b16", rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), "float32")
    noise = jax.ShapeDtypeStruct((2, 196), "float32")
    jaxpr = str(jax.make_jaxpr(lambda m, x, n: m.reconstruct(x, n))(model, images, noise))
    assert "f32[2,50,768]" in jaxpr and "f32[2,197,768]" not in jaxpr
    assert "f32[2,197,512]" in jaxpr


def test_a_perfect_guess_has_no_loss_and_gives_the_image_back():
    for norm_pixels in (True, False):
        model, (images, noise) = small(norm_pixels=norm_pixels), noisy_images()
        _, masked = model.reconstruct(images, noise)
        perfect = model.target(images)
        np.testing.assert_array_equal(model.losses(perfect, masked, images), np.zeros(3))
        np.testing.assert_allclose(model.pictures(perfect, images), images, atol=1e-5)
        wrong = perfect + jnp.where(masked, 0.0, 1.0)[..., None]  # of seen patches only
        np.testing.assert_array_equal(model.losses(wrong, masked, images), np.zeros(3))


def test_scanned_and_listed_blocks_start_and_compute_alike():
    (images, noise), outputs = noisy_images(), []
    for scan in (True, False):
        outputs.append(small(scan=scan).reconstruct(images, noise)[0])
    np.testing.assert_allclose(*outputs, atol=2e-6)


def test_initial_values_of_the_papers_code():
    model = small(scan=True)
    kernel = model.blocks.mlp.fc1.kernel[...]
    assert kernel.shape == (2, 48, 192)
    bound = np.sqrt(6 / (48 + 192))
    assert 0.98 * bound < np.abs(kernel).max() <= bound
    patch = model.patch_embed.kernel[...]
    bound = np.sqrt(6 / (8 * 8 * 3 + 48))
    assert 0.98 * bound < np.abs(patch).max() <= bound
    assert 0.01 < np.std(model.cls_token[...]) < 0.03
    assert not model.pos_embed[...][:, 0].any()


def test_what_cannot_be_is_refused():
    for options, words in (
        ({"num_classes": 10}, "has no classes"),
        ({"mask_ratio": 0.99}, "leaves 0 of 16"),
        ({"mask_ratio": 1.5}, "above 0 and below 1, got 1.5"),
        ({"mask_ratio": -0.5}, "above 0 and below 1, got -0.5"),
        ({"class_token": False, "pool": "average"}, "row for the class token"),
        ({"stem": "conv"}, "leave stem"),
    ):
        with pytest.raises((InputError, ValueError), match=words):
            small(**options)
    with pytest.raises(ValueError, match="has 16 patches, got images of"):
        small().reconstruct(jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 64)))
