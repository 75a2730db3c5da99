import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.drop_path import drop_path, drop_path_rates


def test_rates_rise_linearly_from_zero():
    np.testing.assert_allclose(drop_path_rates(0.3, 4), [0.0, 0.1, 0.2, 0.3])
    assert drop_path_rates(0.3, 1) == (0.0,)
    assert drop_path_rates(0.0, 3) == (0.0, 0.0, 0.0)


def test_whole_examples_are_dropped_and_the_rest_is_scaled():
    branch = jnp.ones((2000, 2, 3))
    output = drop_path(branch, 0.25, train=True, rngs=nnx.Rngs(dropout=0))
    per_example = np.asarray(output).reshape(2000, -1)
    assert (per_example == per_example[:, :1]).all()
    np.testing.assert_allclose(np.unique(per_example), [0.0, 1 / 0.75], rtol=1e-6)
    assert (per_example[:, 0] == 0).mean() == pytest.approx(0.25, abs=0.03)


def test_an_array_of_rate_zero_is_the_identity():
    branch = jax.random.normal(jax.random.key(0), (4, 3))
    for dtype in ("float32", "bfloat16"):
        low = branch.astype(dtype)
        output = drop_path(low, jnp.float32(0.0), train=True, rngs=nnx.Rngs(dropout=0))
        assert output.dtype == dtype
        np.testing.assert_array_equal(output, low)


def test_an_array_drops_as_the_number_does():
    branch = jnp.ones((16, 3))
    number = drop_path(branch, 0.5, train=True, rngs=nnx.Rngs(dropout=1))
    array = drop_path(branch, jnp.float32(0.5), train=True, rngs=nnx.Rngs(dropout=1))
    np.testing.assert_array_equal(number, array)


def test_evaluation_and_rate_zero_need_no_randomness():
    branch = jnp.ones((4, 3))
    assert drop_path(branch, 0.5, train=False, rngs=None) is branch
    assert drop_path(branch, 0.0, train=True, rngs=None) is branch


def test_messages():
    with pytest.raises(ValueError, match="drop path is active.*pass rngs=nnx.Rngs"):
        drop_path(jnp.ones((4, 3)), 0.5, train=True, rngs=None)
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1.0"):
        drop_path_rates(1.0, 3)
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        drop_path_rates(0.1, 0)
