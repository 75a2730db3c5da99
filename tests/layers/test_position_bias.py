import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxvision.layers.position_bias import ContinuousPositionBias, RelativePositionBias
from jaxvision.layers.window import relative_position_index


def test_each_step_has_its_number():
    layer = RelativePositionBias((2, 3), 2, param_dtype="float32", rngs=nnx.Rngs(0))
    table = layer.table[...]
    assert table.shape == (15, 2)
    bias = layer()
    assert bias.shape == (1, 2, 6, 6)
    np.testing.assert_array_equal(bias[0, :, 0, 0], table[7])  # no step: the middle of the table
    np.testing.assert_array_equal(bias[0, :, 0, 1], table[6])  # to the right
    np.testing.assert_array_equal(bias[0, :, 3, 0], table[12])  # from below upwards
    np.testing.assert_array_equal(bias[0, 1], table[relative_position_index((2, 3)), 1])


def test_every_number_of_the_table_gets_the_gradient_of_its_pairs():
    layer = RelativePositionBias((2, 2), 3, param_dtype="float32", rngs=nnx.Rngs(0))
    gradient = jax.grad(lambda layer: layer().sum())(layer).table[...]
    counts = np.outer([1, 2, 1], [1, 2, 1]).reshape(9, 1)
    np.testing.assert_array_equal(gradient, np.repeat(counts, 3, axis=1))


def continuous(window, unit):
    return ContinuousPositionBias(window, 2, unit=unit, param_dtype="float32", rngs=nnx.Rngs(0))


def test_computed_biases_are_between_0_and_16_and_know_larger_windows():
    small, large = continuous((3, 3), (3, 3)), continuous((4, 4), (3, 3))
    np.testing.assert_array_equal(small.fc1.kernel[...], large.fc1.kernel[...])
    assert small.fc2.bias is None
    small.fc2.kernel[...] = large.fc2.kernel[...] = 50.0 * small.fc2.kernel[...]
    bias, larger = small(), large()
    assert larger.shape == (1, 2, 16, 16) and bias.min() > 0.0 and bias.max() < 16.0
    assert float(jnp.ptp(bias)) > 1.0
    # The upper left 3 x 3 tokens of the larger window take the same steps.
    inner = np.array([0, 1, 2, 4, 5, 6, 8, 9, 10])
    np.testing.assert_allclose(larger[:, :, inner][..., inner], bias, atol=1e-5)
