import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.mlp import gelu
from jaxvision.layers.spatial_reduction import PooledReduction, SpatialReduction

OPTIONS = {"norm_eps": 1e-5, "dtype": "float32", "param_dtype": "float32"}
MAP = jax.random.normal(jax.random.key(0), (2, 8, 12, 6))


def reduction(ratio=4):
    return SpatialReduction(6, ratio, rngs=nnx.Rngs(0), **OPTIONS)


def test_one_token_of_each_patch_row_by_row():
    module = reduction()
    tokens = module(MAP)
    assert tokens.shape == (2, 6, 6)
    for i, (row, column) in enumerate([(0, 0), (0, 4), (0, 8), (4, 0)]):
        patch = MAP[:, row : row + 4, column : column + 4]
        np.testing.assert_allclose(module(patch)[:, 0], tokens[:, i], atol=1e-5)
    np.testing.assert_allclose(tokens.mean(-1), 0.0, atol=1e-5)


def test_pixels_that_fill_no_patch_are_left_out():
    module = reduction()
    ragged = jnp.pad(MAP, ((0, 0), (0, 3), (0, 1), (0, 0)), constant_values=7.0)
    np.testing.assert_array_equal(module(ragged), module(MAP))
    with pytest.raises(ValueError, match=r"map of 8 x 3 pixels holds no patch of 4 x 4: .*larger"):
        module(MAP[:, :, :3])


@pytest.mark.parametrize("shape", [(7, 7), (14, 21), (3, 10)])
def test_pooled_tokens_are_49_of_any_map(shape):
    module = PooledReduction(6, rngs=nnx.Rngs(0), **OPTIONS)
    inputs = jax.random.normal(jax.random.key(1), (2, *shape, 6))
    assert module(inputs).shape == (2, 49, 6)
    flat = jnp.ones((2, *shape, 6)) * jnp.arange(6.0).reshape(1, 1, 1, 6)
    np.testing.assert_allclose(module(flat), np.repeat(module(flat)[:, :1], 49, 1), atol=1e-5)


def test_pooled_order_of_the_parts():
    module = PooledReduction(6, rngs=nnx.Rngs(0), **OPTIONS)
    inputs = MAP[:, :7, :7]  # every mean is over one pixel
    expected = gelu(module.norm(module.proj(inputs))).reshape(2, 49, 6)
    np.testing.assert_allclose(module(inputs), expected, atol=1e-5)
