"""The gradient of the kernel on a CPU, against the one that XLA derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.layers.cpu import dense_conv

NONE, ONE = ((0, 0), (0, 0)), ((1, 1), (1, 1))


def both(shape, *, size, stride, sides, dtype):
    """Returns our gradient, and that of XLA in float32."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal(shape).astype("f")
    kernel = rng.standard_normal((size, size, shape[-1], 3)).astype("f")

    def convolve(kernel):
        return jax.lax.conv_general_dilated(
            inputs,
            kernel,
            window_strides=(stride, stride),
            padding=sides,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    outputs, pull = jax.vjp(convolve, kernel)
    grad = rng.standard_normal(outputs.shape).astype("f")
    ours = dense_conv.kernel_gradient(
        jnp.asarray(inputs, dtype), jnp.asarray(grad, dtype), size=size, stride=stride, sides=sides
    )
    return ours, pull(grad)[0]


@pytest.mark.parametrize(
    ("shape", "size", "stride", "sides"),
    [
        ((2, 16, 18, 4), 3, 1, ONE),
        ((2, 33, 30, 4), 3, 2, ONE),
        ((2, 32, 32, 3), 7, 2, ((2, 3), (2, 3))),  # SAME
        ((3, 17, 19, 2), 3, 1, ONE),  # a prime number of rows
        ((1, 32, 32, 2), 4, 2, NONE),
    ],
)
@pytest.mark.parametrize("block", [1, 2**12, dense_conv._BLOCK])
def test_it_is_the_gradient_of_xla(shape, size, stride, sides, block, monkeypatch):
    monkeypatch.setattr(dense_conv, "_BLOCK", block)
    ours, theirs = both(shape, size=size, stride=stride, sides=sides, dtype="float32")
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def test_bfloat16_sums_in_float32():
    ours, exact = both((4, 32, 32, 8), size=3, stride=1, sides=ONE, dtype="bfloat16")
    assert ours.dtype == jnp.bfloat16
    assert float(jnp.abs(ours.astype("float32") - exact).max() / jnp.abs(exact).max()) < 0.01
