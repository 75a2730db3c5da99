import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.patch import ConvStem, OverlapPatchEmbed, PatchEmbed, whole_patches

DTYPES = {"dtype": "float32", "param_dtype": "float32"}


def test_equals_the_strided_convolution():
    module = PatchEmbed(3, 8, patch_size=4, rngs=nnx.Rngs(0), **DTYPES)
    module.bias[...] = jnp.arange(8.0)
    images = jax.random.normal(jax.random.key(1), (2, 12, 20, 3))
    expected = jax.lax.conv_general_dilated(
        images, module.kernel[...], (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    tokens = module(images)
    assert tokens.shape == (2, 3, 5, 8)
    np.testing.assert_allclose(tokens, np.asarray(expected) + np.arange(8.0), atol=1e-5)


def test_num_params_of_vit_b():
    module = nnx.eval_shape(lambda: PatchEmbed(3, 768, patch_size=16, rngs=nnx.Rngs(0), **DTYPES))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
    assert count == 590_592


def test_conv_stem_reaches_the_same_grid():
    module = ConvStem(3, 16, patch_size=8, rngs=nnx.Rngs(0), **DTYPES)
    images = jax.random.normal(jax.random.key(1), (2, 16, 24, 3))
    assert module(images, train=True).shape == (2, 2, 3, 16)
    assert [conv.conv.kernel.shape[-1] for conv in module.convs] == [4, 8, 16]


@pytest.mark.parametrize(("window", "stride"), [(7, 4), (3, 2)])
@pytest.mark.parametrize("side", [8, 13])
def test_overlapping_patches(window, stride, side):
    module = OverlapPatchEmbed(
        3, 8, kernel_size=window, stride=stride, norm_eps=1e-5, rngs=nnx.Rngs(0), **DTYPES
    )
    images = jax.random.normal(jax.random.key(1), (2, side, 12, 3))
    tokens = module(images)
    assert tokens.shape == (2, -(-side // stride), 12 // stride, 8)
    np.testing.assert_allclose(tokens.mean(-1), 0.0, atol=1e-5)
    # A token sees half a window on each side of its place, beyond the border zeros.
    near = (window - 1) // 2
    window_of_first = jnp.pad(images, ((0, 0), (near, 0), (near, 0), (0, 0)))[:, :window, :window]
    kernel = module.proj.kernel[...]
    first = module.norm(jnp.einsum("bijc,ijcd->bd", window_of_first, kernel))
    np.testing.assert_allclose(tokens[:, 0, 0], first, atol=1e-4)


def test_whole_patches():
    images = jax.random.normal(jax.random.key(1), (2, 11, 8, 3))
    np.testing.assert_array_equal(whole_patches(images, 4), images[:, :8])
    np.testing.assert_array_equal(whole_patches(images, 1), images)
    with pytest.raises(ValueError, match="map of 11 x 8 pixels holds no patch of 9 x 9"):
        whole_patches(images, 9)


@pytest.mark.parametrize("stem", [PatchEmbed, ConvStem])
def test_size_must_be_a_whole_number_of_patches(stem):
    module = stem(3, 8, patch_size=4, rngs=nnx.Rngs(0), **DTYPES)
    with pytest.raises(ValueError, match="14 x 16 pixels does not divide into patches of 4.*12 x"):
        module(jnp.zeros((1, 14, 16, 3)))


@pytest.mark.parametrize(
    ("patch_size", "width", "message"),
    [(14, 64, "patch_size of 2, 4, 8, ..., got 14"), (16, 36, "halves the width 3 times")],
)
def test_conv_stem_messages(patch_size, width, message):
    with pytest.raises(ValueError, match=message):
        ConvStem(3, width, patch_size=patch_size, rngs=nnx.Rngs(0), **DTYPES)
