import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxvision.layers.encoder_block import EncoderBlock
from jaxvision.layers.initializer import trunc_normal
from jaxvision.layers.mlp import gelu

DTYPES = {"dtype": "float32", "param_dtype": "float32"}


def block(width=16, heads=4, **kwargs):
    return EncoderBlock(
        width, heads, mlp_ratio=4.0, norm_eps=1e-6, rngs=nnx.Rngs(0), **DTYPES, **kwargs
    )


def count(module):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_num_params_of_vit_b():
    assert count(nnx.eval_shape(lambda: block(768, 12))) == 7_087_872


def test_layer_scale_of_zero_is_the_identity():
    tokens = jax.random.normal(jax.random.key(0), (2, 5, 16))
    np.testing.assert_array_equal(block(layer_scale_init=0.0)(tokens), tokens)
    scaled = block(layer_scale_init=1.0)
    np.testing.assert_allclose(scaled(tokens), block()(tokens), atol=1e-6)
    assert count(scaled) == count(block()) + 32


def test_dropping_both_branches_is_the_identity():
    tokens = jax.random.normal(jax.random.key(0), (256, 5, 16))
    output = block()(tokens, drop_path_rate=0.5, train=True, rngs=nnx.Rngs(dropout=0))
    same = (np.asarray(output) == np.asarray(tokens)).all((1, 2)).mean()
    assert 0.15 < same < 0.35  # a quarter loses both


def test_gelu_is_exact():
    x = jnp.linspace(-4, 4, 81)
    expected = x * jax.scipy.stats.norm.cdf(x)
    np.testing.assert_allclose(gelu(x), expected, atol=1e-6)  # the tanh form is 5e-4 away


def test_trunc_normal_has_the_deviation_it_is_named_after():
    values = trunc_normal(0.02)(jax.random.key(0), (200, 500), jnp.float32)
    np.testing.assert_allclose(values.std(), 0.02, rtol=0.01)
