import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.decode import processors
from jaxvision.decode.settings import DecodeSettings

VOCABULARY, LENGTH = 7, 9


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, 3, VOCABULARY)).astype(np.float32)
    tokens = rng.integers(0, 4, (4, 3, LENGTH)).astype(np.int32)  # many repeats
    return scores, tokens


def by_row(scores, tokens, length, rule):
    """Applies rule(scores of a row, list of its tokens) -> scores, row by row."""
    expected = scores.copy()
    for image, row in np.ndindex(scores.shape[:2]):
        expected[image, row] = rule(expected[image, row], tokens[image, row, :length].tolist())
    return expected


@pytest.mark.parametrize("penalty", [1.3, 0.7])
def test_repetition_penalty(case, penalty):
    def rule(scores, tokens):
        for token in set(tokens):
            scores[token] *= penalty if scores[token] < 0 else 1 / penalty
        return scores

    process = jax.jit(lambda *x: processors.penalize_repetition(*x, penalty=penalty))
    for length in range(1, LENGTH + 1):
        found = process(*case, jnp.int32(length))
        np.testing.assert_allclose(found, by_row(*case, length, rule), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, LENGTH, LENGTH + 1])
def test_no_ngram_twice(case, size):
    def rule(scores, tokens):
        ngrams = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
        for token in range(VOCABULARY):
            if (*tokens[len(tokens) - size + 1 :], token)[-size:] in ngrams:
                scores[token] = -np.inf
        return scores

    process = jax.jit(lambda *x: processors.ban_repeated_ngrams(*x, size=size))
    for length in range(1, LENGTH + 1):
        found = process(*case, jnp.int32(length))
        np.testing.assert_array_equal(found, by_row(*case, length, rule))


@pytest.mark.parametrize("length", [1, 3, 4, 5])
def test_minimum_length_counts_the_start(case, length):
    settings = DecodeSettings(max_length=LENGTH, min_length=4, end=5)
    found = processors.process(*map(jnp.asarray, case), jnp.int32(length), settings=settings)
    assert np.isneginf(found[..., 5]).all() == (length < 4)
    others = np.arange(VOCABULARY) != 5
    np.testing.assert_array_equal(found[..., others], case[0][..., others])


def test_suppressed_tokens(case):
    settings = DecodeSettings(max_length=LENGTH, suppress_tokens=(0, 6))
    found = processors.process(*map(jnp.asarray, case), jnp.int32(2), settings=settings)
    np.testing.assert_array_equal(np.isneginf(found).sum(axis=(0, 1)), [12, 0, 0, 0, 0, 0, 12])


def test_nothing_is_computed_where_nothing_is_on(case):
    settings = DecodeSettings(max_length=LENGTH)
    program = jax.make_jaxpr(lambda *x: processors.process(*x, jnp.int32(3), settings=settings))(
        *case
    )
    assert not program.eqns


def test_all_together_in_the_order_of_hugging_face(case):
    settings = DecodeSettings(
        max_length=LENGTH,
        min_length=9,
        repetition_penalty=1.5,
        no_repeat_ngram_size=2,
        suppress_tokens=(3,),
    )
    scores, tokens = map(jnp.asarray, case)
    expected = processors.penalize_repetition(scores, tokens, jnp.int32(6), penalty=1.5)
    expected = processors.ban_repeated_ngrams(expected, tokens, jnp.int32(6), size=2)
    expected = expected.at[..., jnp.array([2, 3])].set(-jnp.inf)
    found = processors.process(scores, tokens, jnp.int32(6), settings=settings)
    np.testing.assert_array_equal(found, expected)
