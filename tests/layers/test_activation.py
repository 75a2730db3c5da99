import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.layers.activation import ACTIVATIONS, hard_sigmoid, relu6

VALUES = np.linspace(-8.0, 8.0, 33, dtype=np.float32)
FORMULAS = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_formula(name):
    np.testing.assert_allclose(
        ACTIVATIONS[name](jnp.asarray(VALUES)), FORMULAS[name](VALUES), atol=1e-6
    )


def test_gradient_of_relu6_is_zero_at_zero():
    gradients = [float(jax.grad(relu6)(jnp.float32(x))) for x in (-1.0, 0.0, 1.0, 7.0)]
    assert gradients == [0.0, 0.0, 1.0, 0.0]


def test_hard_sigmoid_and_its_gradient():
    values = jnp.asarray(VALUES)
    np.testing.assert_allclose(hard_sigmoid(values), np.clip(VALUES + 3, 0, 6) / 6, atol=1e-7)
    gradients = jax.vmap(jax.grad(hard_sigmoid))(values)
    np.testing.assert_array_equal(gradients, np.where(np.abs(VALUES) < 3, np.float32(1 / 6), 0))
