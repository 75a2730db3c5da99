import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.metrics.contrast import info_nce, spread, unit


def test_loss_against_a_sum_by_hand():
    rng = np.random.default_rng(0)
    queries, keys = rng.standard_normal((2, 5, 3)).astype(np.float32)
    losses, right = info_nce(jnp.asarray(queries), jnp.asarray(keys), temperature=0.5)
    cosines = np.array(
        [[q @ k / np.linalg.norm(q) / np.linalg.norm(k) for k in keys] for q in queries]
    )
    shares = np.exp(cosines / 0.5) / np.exp(cosines / 0.5).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(losses, -np.log(np.diag(shares)), rtol=1e-5)
    np.testing.assert_array_equal(right, cosines.argmax(axis=1) == np.arange(5))


def test_outputs_of_zeros_have_a_finite_gradient():
    gradient = jax.grad(lambda x: jnp.sum(unit(x)))(jnp.zeros((2, 3)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("outputs, expected", [(np.ones((8, 4)), 0.0), (np.eye(64), 1.0)])
def test_spread_is_0_where_all_collapsed_and_1_in_all_directions(outputs, expected):
    assert float(spread(jnp.asarray(outputs, jnp.float32))) == pytest.approx(expected, abs=0.02)
