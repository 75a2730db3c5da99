import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from jaxvision.layers.attention import (
    MultiHeadAttention,
    attention_weights,
    dot_product_attention,
)

DTYPES = {"dtype": "float32", "param_dtype": "float32"}


def inputs(targets=5, sources=7, heads=2, head_dim=4):
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.normal(keys[0], (3, targets, heads, head_dim)),
        jax.random.normal(keys[1], (3, sources, heads, head_dim)),
        jax.random.normal(keys[2], (3, sources, heads, head_dim)),
    )


def by_hand(query, keys, values, bias=None, mask=None):
    """One example, one head, one target at a time, in float64."""
    query, keys, values = (np.asarray(x, np.float64) for x in (query, keys, values))
    batch, targets, heads, head_dim = query.shape
    output = np.zeros_like(query)
    for b, t, n in np.ndindex(batch, targets, heads):
        scores = keys[b, :, n] @ query[b, t, n] / np.sqrt(head_dim)
        if bias is not None:
            scores = scores + np.asarray(bias)[0, n, t]
        keep = np.ones(len(scores), bool) if mask is None else np.asarray(mask)[b, 0, t]
        weights = np.exp(scores[keep] - scores[keep].max())
        output[b, t, n] = weights / weights.sum() @ values[b, keep, n]
    return output


@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_equals_a_calculation_by_hand(implementation):
    query, keys, values = inputs()
    bias = jax.random.normal(jax.random.key(1), (1, 2, 5, 7))
    mask = jax.random.bernoulli(jax.random.key(2), 0.6, (3, 1, 5, 7)).at[..., 0].set(True)
    for kwargs in ({}, {"bias": bias}, {"mask": mask}, {"bias": bias, "mask": mask}):
        output = dot_product_attention(query, keys, values, implementation=implementation, **kwargs)
        expected = by_hand(query, keys, values, **kwargs)
        np.testing.assert_allclose(output, expected, atol=2e-6)


@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_masked_equals_the_subset(implementation):
    query, keys, values = inputs()
    mask = jnp.arange(7).reshape(1, 1, 1, 7) < 4
    masked = dot_product_attention(query, keys, values, mask=mask, implementation=implementation)
    subset = dot_product_attention(query, keys[:, :4], values[:, :4], implementation=implementation)
    np.testing.assert_allclose(masked, subset, atol=1e-6)


@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_a_row_without_any_source_is_the_mean_and_has_finite_gradients(implementation):
    query, keys, values = inputs()
    mask = jnp.zeros((1, 1, 5, 7), bool)

    def loss(query, keys, values):
        output = dot_product_attention(
            query, keys, values, mask=mask, implementation=implementation
        )
        return jnp.sum(output**2), output

    grads, output = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(query, keys, values)
    mean = jnp.broadcast_to(values.mean(1, keepdims=True), output.shape)
    np.testing.assert_allclose(output, mean, atol=1e-6)
    assert all(bool(jnp.isfinite(grad).all()) for grad in grads)


def test_weights_sum_to_one_and_vanish_where_masked():
    query, keys, _ = inputs()
    mask = jnp.arange(7).reshape(1, 1, 1, 7) < 4
    weights = attention_weights(query, keys, mask=mask)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
    assert not weights[..., 4:].any()


def test_dropout_acts_on_the_weights_and_keeps_their_mean():
    query, keys, values = inputs(sources=512)
    values = jnp.ones_like(values)  # the output is then the sum of the kept, rescaled weights
    plain = dot_product_attention(query, keys, values, dropout_rate=0.5)
    np.testing.assert_allclose(plain, 1.0, atol=1e-5)
    sums = dot_product_attention(
        query, keys, values, dropout_rate=0.5, dropout_key=jax.random.key(3)
    )
    assert float(jnp.std(sums)) > 0.02
    np.testing.assert_allclose(sums.mean(), 1.0, atol=0.05)


def test_score_variance_is_one_after_scaling():
    query, keys, _ = inputs(targets=64, sources=64, heads=4, head_dim=64)
    scores = jnp.einsum("BTNH,BSNH->BNTS", query, keys)
    assert float(jnp.var(scores)) == pytest.approx(64, rel=0.1)
    logs = jnp.log(attention_weights(query, keys))
    assert float(jnp.var(logs, axis=-1).mean()) == pytest.approx(1.0, rel=0.1)


def test_bfloat16_computes_its_softmax_in_float32():
    query, keys, values = inputs()
    low = [x.astype(jnp.bfloat16) for x in (query, keys, values)]
    expected = by_hand(*[x.astype(jnp.float32) for x in low])
    for implementation in ("fused", "reference"):
        output = dot_product_attention(*low, implementation=implementation)
        assert output.dtype == jnp.bfloat16
        np.testing.assert_allclose(output.astype(jnp.float32), expected, atol=0.02)


@pytest.mark.float64
@pytest.mark.quick
def test_float64_is_exact_whatever_is_asked_for():
    query, keys, values = (jnp.asarray(x, jnp.float64) for x in inputs())
    output = dot_product_attention(query, keys, values, implementation="fused")
    np.testing.assert_allclose(output, by_hand(query, keys, values), atol=1e-14)


def test_messages():
    query, keys, values = inputs()
    with pytest.raises(ValueError, match="'auto', 'fused', 'reference' or 'cudnn', got 'flash'"):
        MultiHeadAttention(8, 2, implementation="flash", rngs=nnx.Rngs(0), **DTYPES)
    with pytest.raises(ValueError, match="needs float16 or bfloat16"):
        dot_product_attention(query, keys, values, implementation="cudnn")
    with pytest.raises(ValueError, match="width 10 must be a multiple of num_heads 4"):
        MultiHeadAttention(10, 4, rngs=nnx.Rngs(0), **DTYPES)


def num_params(module):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize(("width", "count"), [(64, 16_640), (256, 263_168), (768, 2_362_368)])
def test_multi_head_num_params(width, count):
    module = nnx.eval_shape(lambda: MultiHeadAttention(width, 4, rngs=nnx.Rngs(0), **DTYPES))
    assert num_params(module) == count


def test_multi_head_is_permutation_equivariant():
    module = MultiHeadAttention(8, 2, rngs=nnx.Rngs(0), **DTYPES)
    tokens = jax.random.normal(jax.random.key(1), (2, 5, 8))
    order = jnp.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(module(tokens)[:, order], module(tokens[:, order]), atol=1e-6)
    weights = module.weights(tokens)
    permuted = module.weights(tokens[:, order])
    np.testing.assert_allclose(weights[:, :, order][:, :, :, order], permuted, atol=1e-6)


def test_cross_attention_to_one_source_gives_that_source():
    module = MultiHeadAttention(8, 2, memory_width=6, rngs=nnx.Rngs(0), **DTYPES)
    tokens = jax.random.normal(jax.random.key(1), (2, 5, 8))
    memory = jax.random.normal(jax.random.key(2), (2, 1, 6))
    assert module.weights(tokens, memory).shape == (2, 2, 5, 1)
    expected = jnp.broadcast_to(module.out(module.value(memory)), (2, 5, 8))
    np.testing.assert_allclose(module(tokens, memory), expected, atol=1e-6)


def test_hand_calculation_of_a_batch_of_two():
    """Two tokens of one channel and one head: everything can be worked out on paper."""
    module = MultiHeadAttention(1, 1, rngs=nnx.Rngs(0), **DTYPES)
    numbers = {"query": (2.0, 0.0), "key": (1.0, 0.5), "value": (3.0, 1.0), "out": (0.5, -1.0)}
    for name, (kernel, bias) in numbers.items():
        layer = getattr(module, name)
        layer.kernel[...], layer.bias[...] = jnp.full((1, 1), kernel), jnp.full((1,), bias)
    tokens = jnp.array([[[0.0], [1.0]], [[1.0], [-1.0]]])
    # Query 0 asks both alike; query 1 has the scores 2 * 0.5 and 2 * 1.5.
    share = 1 / (1 + np.exp(2.0))
    first = [0.5 * 2.5 - 1, 0.5 * (share * 1 + (1 - share) * 4) - 1]
    # Queries 2 and -2, keys 1.5 and -0.5, values 4 and -2.
    share = 1 / (1 + np.exp(-4.0))
    second = [0.5 * (4 * s - 2 * (1 - s)) - 1 for s in (share, 1 - share)]
    np.testing.assert_allclose(module(tokens)[..., 0], [first, second], atol=1e-6)


def test_weights_are_neither_all_equal_nor_all_zero_or_one():
    module = MultiHeadAttention(8, 2, rngs=nnx.Rngs(0), **DTYPES)
    for name in ("query", "key"):
        getattr(module, name).kernel[...] *= 20.0
    weights = module.weights(jax.random.normal(jax.random.key(1), (2, 5, 8)))
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
    assert 0.05 < float(weights.std()) and 0.05 < float(
        ((0.01 < weights) & (weights < 0.99)).mean()
    )


@pytest.mark.float64
@pytest.mark.quick
def test_gradients_against_differences():
    """In float32, or with dropout, differences could not be that close."""
    module = MultiHeadAttention(64, 4, rngs=nnx.Rngs(0), dtype="float64", param_dtype="float64")
    graphdef, params = nnx.split(module)
    tokens = jax.random.normal(jax.random.key(1), (2, 10, 64), jnp.float64)

    def output(params, tokens):
        return nnx.merge(graphdef, params)(jnp.asarray(tokens))

    check_grads(output, (params, tokens), order=1, modes=["rev"], eps=1e-6, atol=1e-4, rtol=1e-4)


def test_dropout_only_in_training_and_only_with_randomness():
    module = MultiHeadAttention(8, 2, attention_dropout_rate=0.5, rngs=nnx.Rngs(0), **DTYPES)
    tokens = jax.random.normal(jax.random.key(1), (2, 5, 8))
    one = module(tokens, train=True, rngs=nnx.Rngs(dropout=1))
    assert not np.allclose(module(tokens), one)
    assert not np.allclose(one, module(tokens, train=True, rngs=nnx.Rngs(dropout=2)))
    with pytest.raises(ValueError, match="attention dropout is active.*rngs=nnx.Rngs"):
        module(tokens, train=True)
