import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.decode import sampling
from jaxvision.decode.settings import DecodeSettings

LOGITS = np.log(np.array([0.05, 0.4, 0.1, 0.3, 0.15], np.float32))


def kept(logits):
    return np.flatnonzero(np.isfinite(logits)).tolist()


def drawn(logits, count=20_000, **settings):
    """Returns the share of each token among many draws."""
    settings = DecodeSettings(max_length=2, do_sample=True, **settings)
    keys = jax.random.split(jax.random.key(0), (count, 1))
    draw = jax.jit(lambda logits: sampling.sample(keys, logits, settings=settings))
    tokens = draw(np.tile(logits, (count, 1, 1)))
    return np.bincount(np.asarray(tokens).ravel(), minlength=len(logits)) / count


@pytest.mark.parametrize(("count", "expected"), [(1, [1]), (2, [1, 3]), (4, [1, 2, 3, 4])])
def test_top_k(count, expected):
    assert kept(sampling.keep_top_k(jnp.asarray(LOGITS), count)) == expected


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (0.01, [1]),
        (0.39, [1]),
        (0.41, [1, 3]),
        (0.69, [1, 3]),
        (0.71, [1, 3, 4]),
        (0.96, [*range(5)]),
    ],
)
def test_top_p_is_the_smallest_set_that_holds_it(probability, expected):
    assert kept(sampling.keep_top_p(jnp.asarray(LOGITS), probability)) == expected


def test_equal_logits_stay_or_go_together():
    ties = jnp.array([0.0, 1.0, 1.0, 0.0])
    assert kept(sampling.keep_top_k(ties, 1)) == [1, 2]
    assert kept(sampling.keep_top_p(ties, 0.1)) == [1, 2]


def test_impossible_tokens_stay_so():
    logits = jnp.array([-jnp.inf, 0.0, -jnp.inf, 1.0])
    assert kept(sampling.keep_top_k(logits, 3)) == [1, 3]
    assert kept(sampling.keep_top_p(logits, 0.999)) == [1, 3]
    assert drawn(np.asarray(logits), top_p=0.999)[[0, 2]].sum() == 0


def test_frequencies():
    np.testing.assert_allclose(drawn(LOGITS), np.exp(LOGITS), atol=0.015)
    cold = np.exp(2 * LOGITS) / np.exp(2 * LOGITS).sum()
    np.testing.assert_allclose(drawn(LOGITS, temperature=0.5), cold, atol=0.015)
    np.testing.assert_allclose(drawn(LOGITS, top_k=2), [0, 4 / 7, 0, 3 / 7, 0], atol=0.015)
    # After a temperature of 0.5 the first two hold 0.87 of it.
    assert drawn(LOGITS, temperature=0.5, top_p=0.8)[[0, 2, 4]].sum() == 0


def test_more_than_the_vocabulary_is_all_of_it():
    np.testing.assert_array_equal(drawn(LOGITS, top_k=50), drawn(LOGITS))


def test_keys_depend_on_image_and_sample_alone():
    key = jax.random.key(3)
    few = jax.random.key_data(sampling.sample_keys(key, jnp.array([7, 9]), 2))
    many = jax.random.key_data(sampling.sample_keys(key, jnp.array([1, 9, 4, 7]), 5))
    np.testing.assert_array_equal(few[0], many[3, :2])
    np.testing.assert_array_equal(few[1], many[1, :2])
    assert len({tuple(row) for row in np.asarray(many).reshape(-1, many.shape[-1])}) == 20
