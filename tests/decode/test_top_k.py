import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.decode.top_k import CHUNK, argmax, few_top_k, top_k


@pytest.mark.parametrize(
    ("rows", "choices", "count"),
    [
        (1, 1000, 6),
        (3, 333, 4),  # a short last chunk
        (3, 20 * CHUNK, 6),  # none
        (5, 1004, 10),
        (2, CHUNK + 1, 2),
        (1, 4096, 1),
        (2, 7, 14),  # all there are
    ],
)
def test_equals_the_plain_one_with_ties_and_impossible_choices(rows, choices, count):
    rng = np.random.default_rng(choices)
    scores = rng.integers(-4, 4, (5, rows, choices)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.3] = -np.inf
    offsets = rng.integers(-3, 3, (5, rows)).astype(np.float32)
    expected = jax.lax.top_k((scores + offsets[..., None]).reshape(5, -1), count)
    found = top_k(jnp.asarray(scores), jnp.asarray(offsets), count)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_greatest_at_the_very_end_of_a_row():
    scores = jnp.zeros((1, 2, 1004)).at[0, 0, -1].set(5.0).at[0, 1, -1].set(4.0)
    values, indices = top_k(scores, jnp.array([[0.0, 2.0]]), 2)
    np.testing.assert_array_equal(values, [[6.0, 5.0]])
    np.testing.assert_array_equal(indices, [[2007, 1003]])


def test_a_dead_row_gives_nothing():
    scores = jnp.ones((1, 2, 100))
    values, indices = top_k(scores, jnp.array([[0.0, -jnp.inf]]), 100)
    assert np.isfinite(values).all() and (indices < 100).all()


@pytest.mark.parametrize("function", [few_top_k, lambda x, k: top_k(x[:, None], x[:, :1] * 0, k)])
def test_a_slice_of_it_does_not_sort_everything(function):
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4096)).astype(np.float32))

    def best_half(scores):
        values, indices = function(scores, 8)
        return values[:, :4], indices[:, :6]

    text = jax.jit(best_half).lower(scores).compile().as_text()
    assert "TopK" in text
    assert not [line for line in text.splitlines() if " sort(" in line and "4096" in line]


@pytest.mark.parametrize("shape", [(7,), (3, 1004), (2, 3, 40), (2, 1, 1)])
def test_argmax_takes_the_first_of_equals(shape):
    scores = np.random.default_rng(0).integers(0, 5, shape).astype(np.float32)
    np.testing.assert_array_equal(argmax(jnp.asarray(scores)), scores.argmax(-1))
