import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers import cached_attention
from jaxvision.layers.attention import MultiHeadAttention
from jaxvision.layers.decoder_block import DecoderBlock

DTYPES = {"dtype": "float32", "param_dtype": "float32"}
TOKENS = jax.random.normal(jax.random.key(1), (2, 5, 8))
MEMORY = jax.random.normal(jax.random.key(2), (2, 3, 8))
CAUSAL = jnp.tril(jnp.ones((5, 5), bool))[None, None]


def block(norm_first=True, **options):
    return DecoderBlock(
        8, 2, hidden_width=12, norm_first=norm_first, rngs=nnx.Rngs(0), **DTYPES, **options
    )


def by_hand(block, tokens, memory):
    """The figure of the paper, branch by branch."""
    branches = (
        (block.norm1, lambda x: block.self_attn(x, mask=CAUSAL)),
        (block.norm2, lambda x: block.cross_attn(x, memory)),
        (block.norm3, block.mlp),
    )
    for norm, branch in branches:
        if block.norm_first:
            tokens = tokens + branch(norm(tokens))
        else:
            tokens = norm(tokens + branch(tokens))
    return tokens


@pytest.mark.parametrize("norm_first", [True, False])
def test_branches(norm_first):
    layer = block(norm_first)
    output = layer(TOKENS, MEMORY, mask=CAUSAL)
    np.testing.assert_allclose(output, by_hand(layer, TOKENS, MEMORY), atol=1e-6)
    if not norm_first:
        np.testing.assert_allclose(output.mean(-1), 0.0, atol=1e-6)
        np.testing.assert_allclose(output.var(-1), 1.0, atol=1e-3)


def test_num_params():
    layer = nnx.eval_shape(
        lambda: DecoderBlock(
            256, 4, hidden_width=2048, norm_first=False, rngs=nnx.Rngs(0), **DTYPES
        )
    )
    sizes = jax.tree.map(lambda x: x.size, nnx.to_pure_dict(nnx.state(layer, nnx.Param)))
    totals = {name: sum(jax.tree.leaves(part)) for name, part in sizes.items()}
    assert totals == {
        "self_attn": 263_168,
        "cross_attn": 263_168,
        "mlp": 1_050_880,
        **{f"norm{n}": 512 for n in (1, 2, 3)},
    }
    assert sum(totals.values()) == 1_578_752


@pytest.mark.parametrize("norm_first", [True, False])
def test_steps_equal_the_whole(norm_first):
    layer = block(norm_first)
    whole = layer(TOKENS, MEMORY, mask=CAUSAL)
    caches = layer.start(MEMORY, slots=5)
    for t in range(5):
        mask = jnp.broadcast_to(jnp.arange(5) <= t, (2, 1, 1, 5))
        output, caches = layer.step(TOKENS[:, t : t + 1], caches, slot=jnp.int32(t), mask=mask)
        np.testing.assert_allclose(output[:, 0], whole[:, t], atol=1e-6)


def test_cross_weights():
    layer = block()
    mask = jnp.array([True, True, False]).reshape(1, 1, 1, 3)
    output, weights = layer.cross_weights(TOKENS, MEMORY, mask=CAUSAL, memory_mask=mask)
    np.testing.assert_array_equal(output, layer(TOKENS, MEMORY, mask=CAUSAL, memory_mask=mask))
    assert weights.shape == (2, 2, 5, 3) and not weights[..., 2].any()
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
    # What the tokens look with are their vectors behind the first branch, normed.
    looking = TOKENS + layer.self_attn(layer.norm1(TOKENS), mask=CAUSAL)
    expected = layer.cross_attn.weights(layer.norm2(looking), MEMORY, mask=mask)
    np.testing.assert_allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize("norm_first", [True, False])
def test_each_branch_is_dropped_in_training(norm_first):
    """With a rate close to 1 nearly every number of every branch is zero."""
    layer = block(norm_first, dropout_rate=0.999)
    layer.mlp.dropout_rate = 0.0
    output = layer(TOKENS, MEMORY, train=True, rngs=nnx.Rngs(dropout=0))
    layer.mlp.dropout_rate = 0.999
    none = layer(TOKENS, MEMORY, train=True, rngs=nnx.Rngs(dropout=0))
    normed = TOKENS
    if not norm_first:
        for norm in (layer.norm1, layer.norm2, layer.norm3):
            normed = norm(normed)
    assert float((jnp.abs(none - normed) > 1e-5).mean()) < 0.1
    assert float((jnp.abs(output - normed) > 1e-5).mean()) > 0.5
    plain = block(norm_first)(TOKENS, MEMORY)
    np.testing.assert_array_equal(layer(TOKENS, MEMORY), plain)
    with pytest.raises(ValueError, match="rngs is None"):
        layer(TOKENS, MEMORY, train=True)


def test_attention_dropout_needs_randomness_of_its_own():
    layer = block(attention_dropout_rate=0.5)
    one = layer(TOKENS, MEMORY, train=True, rngs=nnx.Rngs(dropout=0))
    assert not np.allclose(one, layer(TOKENS, MEMORY))
    with pytest.raises(ValueError, match="attention dropout is active"):
        layer(TOKENS, MEMORY, train=True)


def test_cache_is_written_where_told_and_nowhere_else():
    attention = MultiHeadAttention(8, 2, rngs=nnx.Rngs(0), **DTYPES)
    cache = cached_attention.empty_cache(attention, MEMORY, slots=6)
    rows = TOKENS[:, :2]
    cache = cached_attention.write(attention, cache, rows, slot=jnp.int32(2))
    keys, values = attention.keys_and_values(rows)
    np.testing.assert_allclose(cache["keys"][..., 2:4], keys.transpose(0, 2, 3, 1), atol=1e-6)
    np.testing.assert_allclose(cache["values"][:, :, 2:4], values.swapaxes(1, 2), atol=1e-6)
    for rest in (cache["keys"][..., [0, 1, 4, 5]], cache["values"][:, :, [0, 1, 4, 5]]):
        assert not rest.any()
    mask = jnp.zeros((2, 1, 2, 6), bool).at[:, :, :, 2:4].set(True)
    attended = cached_attention.attend(attention, cache, rows, mask=mask)
    np.testing.assert_allclose(attended, attention(rows), atol=1e-6)
