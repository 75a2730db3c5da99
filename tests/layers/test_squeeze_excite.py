import jax
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.activation import hard_sigmoid
from jaxvision.layers.squeeze_excite import SqueezeExcite

INPUTS = jax.random.normal(jax.random.key(1), (2, 5, 4, 6))


def build(**options):
    options = {"activation": nnx.relu, "gate": jax.nn.sigmoid, "dtype": "float32"} | options
    return SqueezeExcite(6, 3, param_dtype="float32", rngs=nnx.Rngs(0), **options)


def test_equals_the_definition():
    layer = build()
    layer.reduce.bias[...] = jax.random.normal(jax.random.key(2), (3,))
    layer.expand.bias[...] = jax.random.normal(jax.random.key(3), (6,))
    images = np.asarray(INPUTS, np.float64)
    first, second = (
        (np.asarray(part.kernel[...])[0, 0], np.asarray(part.bias[...]))
        for part in (layer.reduce, layer.expand)
    )
    hidden = np.maximum(images.mean((1, 2)) @ first[0] + first[1], 0)
    expected = images / (1 + np.exp(-(hidden @ second[0] + second[1])))[:, None, None]
    np.testing.assert_allclose(layer(INPUTS), expected, atol=1e-6)


def test_the_order_of_pixels_does_not_matter():
    layer = build()
    np.testing.assert_allclose(
        layer(INPUTS[:, ::-1, ::-1]), layer(INPUTS)[:, ::-1, ::-1], atol=1e-6
    )


@pytest.mark.parametrize("value", [-4.0, 4.0])
def test_a_hard_gate_closes_and_opens(value):
    layer = build(gate=hard_sigmoid)
    layer.expand.kernel[...] = np.zeros((1, 1, 3, 6), "f")
    layer.expand.bias[...] = np.full((6,), value, "f")
    np.testing.assert_array_equal(layer(INPUTS), INPUTS if value > 0 else 0 * INPUTS)


def test_dtype():
    assert build(dtype="bfloat16")(INPUTS.astype("bfloat16")).dtype == "bfloat16"
