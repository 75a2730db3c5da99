import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.token_embed import TokenEmbed

DTYPES = {"dtype": "float32", "param_dtype": "float32"}


def embed(position="learned", width=8, **options):
    return TokenEmbed(
        10, width, max_length=6, position=position, rngs=nnx.Rngs(0), **DTYPES | options
    )


TOKENS = jnp.array([[1, 5, 5, 0], [9, 2, 3, 4]])


@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
def test_one_token_at_its_position_equals_all_at_once(position):
    layer = embed(position)
    vectors = layer(TOKENS)
    assert vectors.shape == (2, 4, 8)
    for t in range(4):
        one = layer.at(TOKENS[:, t : t + 1], jnp.int32(t))
        np.testing.assert_allclose(one[:, 0], vectors[:, t], atol=1e-7)
    same_word = vectors[0, 1] - vectors[0, 2]  # the difference of two places
    assert float(jnp.abs(same_word).max()) > 1e-3


def test_sinusoids_are_no_parameters():
    names = nnx.to_pure_dict(nnx.state(embed("sinusoidal"), nnx.Param))
    assert set(names) == {"embedding"}
    assert set(nnx.to_pure_dict(nnx.state(embed(), nnx.Param))) == {"embedding", "pos_embed"}
    nnx.split(embed("sinusoidal"), nnx.Param)  # nothing else is left


def test_dropout_comes_behind_the_sum():
    layer = embed("sinusoidal", dropout_rate=0.5)
    plain, dropped = layer(TOKENS), layer(TOKENS, train=True, rngs=nnx.Rngs(dropout=1))
    kept = dropped != 0
    assert 0.2 < float(kept.mean()) < 0.8
    np.testing.assert_allclose(dropped[kept], 2 * plain[kept], rtol=1e-6)
    with pytest.raises(ValueError, match="rngs is None"):
        layer(TOKENS, train=True)


def test_attend_is_the_product_with_the_words():
    layer = embed(dtype="bfloat16")
    hidden = jax.random.normal(jax.random.key(0), (2, 4, 8), jnp.bfloat16)
    logits = layer.attend(hidden)
    assert logits.shape == (2, 4, 10) and logits.dtype == jnp.float32
    expected = hidden.astype(jnp.float32) @ layer.embedding[...].T
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_messages():
    with pytest.raises(ValueError, match="positions for 6 tokens, got 7: shorten the captions"):
        embed()(jnp.zeros((1, 7), jnp.int32))
    with pytest.raises(ValueError, match="even number of channels, got 7"):
        embed("sinusoidal", width=7)
    with pytest.raises(ValueError, match="position must be one of learned, sinusoidal"):
        embed("sinus")
