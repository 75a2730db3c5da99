import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.metrics.classification import topk_correct


def test_hand_computed():
    logits = jnp.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.1, 0.2, 0.7]])
    labels = jnp.array([1, 2, 0])
    np.testing.assert_array_equal(topk_correct(logits, labels, k=1), [1, 0, 0])
    np.testing.assert_array_equal(topk_correct(logits, labels, k=2), [1, 1, 0])


def test_agrees_with_sorting_also_on_ties():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (500, 12)).astype(np.float32)  # full of ties
    labels = rng.integers(0, 12, 500).astype(np.int32)
    order = np.argsort(-logits, axis=-1, kind="stable")
    for k in (1, 5):
        expected = (order[:, :k] == labels[:, None]).any(axis=-1)
        got = topk_correct(jnp.asarray(logits), jnp.asarray(labels), k=k)
        assert got.dtype == jnp.float32
        np.testing.assert_array_equal(got, expected)


def test_constant_model_scores_chance():
    labels = jnp.arange(10, dtype=jnp.int32)
    assert topk_correct(jnp.zeros((10, 10)), labels, k=1).sum() == 1
    assert topk_correct(jnp.zeros((10, 10)), labels, k=5).sum() == 5


def test_fewer_classes_than_k():
    logits = jnp.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    np.testing.assert_array_equal(topk_correct(logits, jnp.array([0, 0]), k=5), [1, 1])


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_diverged_model_is_wrong(k):
    logits = jnp.full((4, 3), jnp.nan)
    assert topk_correct(logits, jnp.array([0, 1, 2, 0]), k=k).sum() == 0
    # NaN of another class counts against the true one.
    assert topk_correct(jnp.array([[5.0, jnp.nan, 0.0]]), jnp.array([0]), k=1)[0] == 0


def test_k_below_one():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        topk_correct(jnp.zeros((1, 3)), jnp.array([0]), k=0)
