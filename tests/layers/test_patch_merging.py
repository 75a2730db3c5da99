import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.patch_merging import PatchMerging

DTYPES = {"dtype": "float32", "param_dtype": "float32"}
MAP = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))


def merging(norm_first=True):
    return PatchMerging(3, norm_first=norm_first, norm_eps=1e-5, rngs=nnx.Rngs(0), **DTYPES)


@pytest.mark.parametrize("norm_first", [True, False])
def test_four_neighbours_make_one_token(norm_first):
    layer = merging(norm_first)
    merged = layer(MAP)
    assert merged.shape == (2, 2, 3, 6)
    four = jnp.concatenate([MAP[1, 2, 4], MAP[1, 3, 4], MAP[1, 2, 5], MAP[1, 3, 5]])
    four = layer.norm(four) if norm_first else four
    one = four @ layer.reduction.kernel[...]
    one = one if norm_first else layer.norm(one)
    np.testing.assert_allclose(merged[1, 1, 2], one, atol=1e-6)
    assert layer.norm.scale.shape == ((12,) if norm_first else (6,))
    assert layer.reduction.bias is None


def test_odd_sides_get_zeros():
    layer = merging()
    padded = jnp.pad(MAP[:, :3, :5], ((0, 0), (0, 1), (0, 1), (0, 0)))
    np.testing.assert_array_equal(layer(MAP[:, :3, :5]), layer(padded))
    assert layer(MAP[:, :1, :1]).shape == (2, 1, 1, 6)
