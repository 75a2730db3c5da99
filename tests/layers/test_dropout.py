import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.dropout import dropout


def test_share_and_scale():
    output = np.asarray(dropout(jnp.ones((100, 100)), 0.2, train=True, rngs=nnx.Rngs(dropout=0)))
    np.testing.assert_allclose(np.unique(output), [0.0, 1.25], rtol=1e-6)
    assert (output == 0).mean() == pytest.approx(0.2, abs=0.02)


def test_a_second_call_draws_other_numbers():
    rngs = nnx.Rngs(dropout=0)
    one = dropout(jnp.ones(100), 0.5, train=True, rngs=rngs)
    assert not np.array_equal(one, dropout(jnp.ones(100), 0.5, train=True, rngs=rngs))


def test_evaluation_and_rate_zero_are_the_identity():
    inputs = jnp.ones(3)
    assert dropout(inputs, 0.5, train=False, rngs=None) is inputs
    assert dropout(inputs, 0.0, train=True, rngs=None) is inputs


def test_message():
    with pytest.raises(ValueError, match="dropout is active when train=True.*pass rngs"):
        dropout(jnp.ones(3), 0.5, train=True, rngs=None)
