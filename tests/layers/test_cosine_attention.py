import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.cosine_attention import CosineAttention

DTYPES = {"dtype": "float32", "param_dtype": "float32"}
TOKENS = jax.random.normal(jax.random.key(0), (2, 5, 12))


def attention(**options):
    return CosineAttention(12, 3, rngs=nnx.Rngs(0), **DTYPES, **options)


def by_hand(layer, tokens):
    """The formula, head by head."""
    query, value = layer.query(tokens), layer.value(tokens)
    key = tokens @ layer.key.kernel[...]
    heads = []
    for head, scale in enumerate(layer.logit_scale[...]):
        q, k, v = (x[..., 4 * head : 4 * head + 4] for x in (query, key, value))
        q, k = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
        scores = jnp.einsum("btd,bsd->bts", q, k) * jnp.exp(min(scale, np.log(100.0)))
        heads.append(jax.nn.softmax(scores, axis=-1) @ v)
    return layer.out(jnp.concatenate(heads, axis=-1))


@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_scores_are_scaled_cosines(implementation):
    layer = attention(implementation=implementation)
    layer.logit_scale[...] = jnp.array([0.5, 2.0, 9.0])  # the last is beyond ln 100
    np.testing.assert_allclose(layer(TOKENS), by_hand(layer, TOKENS), atol=1e-6)


def test_the_length_of_query_and_key_does_not_count():
    layer = attention()
    before = layer(TOKENS)
    layer.key.kernel[...] = 7.0 * layer.key.kernel[...]
    np.testing.assert_allclose(layer(TOKENS), before, atol=1e-6)


def test_a_bias_of_the_keys_is_kept_and_never_used():
    assert attention().key.bias is None
    kept = attention(key_bias=True)
    before = kept(TOKENS)
    kept.key.bias[...] = jnp.arange(12.0)
    np.testing.assert_array_equal(kept(TOKENS), before)
    gradient = jax.grad(lambda layer: layer(TOKENS).sum())(kept)
    np.testing.assert_array_equal(gradient.key.bias[...], np.zeros(12))


def test_tokens_of_zeros_have_finite_gradients():
    def loss(layer, tokens):
        return jnp.square(layer(tokens)).sum()

    tokens = TOKENS.at[:, 3:].set(0.0)
    gradients = jax.grad(loss, argnums=(0, 1))(attention(), tokens)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


def test_message():
    with pytest.raises(ValueError, match="width 12 must be a multiple of num_heads 5"):
        CosineAttention(12, 5, rngs=nnx.Rngs(0), **DTYPES)
