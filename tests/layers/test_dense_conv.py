"""The gradient of the kernel on a CPU, against the one that XLA derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.layers import dense_conv

NONE, ONE = ((0, 0), (0, 0)), ((1, 1), (1, 1))


def gradients(convolve, shape, *, size, stride, sides, dtype):
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal(shape), dtype)
    kernel = jnp.asarray(rng.standard_normal((size, size, shape[-1], 3)), dtype)
    outputs, vjp = jax.vjp(lambda x, k: convolve(x, k, stride, sides), inputs, kernel)
    return outputs, *vjp(jnp.asarray(rng.standard_normal(outputs.shape), dtype))


@pytest.mark.parametrize(
    ("shape", "size", "stride", "sides"),
    [
        ((2, 16, 18, 4), 3, 1, ONE),
        ((2, 33, 30, 4), 3, 2, ONE),
        ((2, 32, 32, 3), 7, 2, ((2, 3), (2, 3))),  # SAME
        ((3, 17, 19, 2), 3, 1, ONE),  # a prime number of rows
        ((1, 32, 32, 2), 4, 2, NONE),
        ((2, 9, 9, 2), 3, 1, ONE),  # few pixels: XLA's own
    ],
)
@pytest.mark.parametrize("block", [1, 2**12, dense_conv._BLOCK])
def test_gradients_are_those_of_xla(shape, size, stride, sides, block, monkeypatch):
    monkeypatch.setattr(dense_conv, "_BLOCK", block)
    options = {"size": size, "stride": stride, "sides": sides, "dtype": "float32"}
    ours = gradients(dense_conv._with_own_gradient, shape, **options)
    theirs = gradients(dense_conv._convolve, shape, **options)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


def test_bfloat16_sums_in_float32():
    shape, options = (4, 32, 32, 8), {"size": 3, "stride": 1, "sides": ONE}
    exact = gradients(dense_conv._convolve, shape, dtype="float32", **options)[2]
    ours = gradients(dense_conv._with_own_gradient, shape, dtype="bfloat16", **options)[2]
    assert ours.dtype == jnp.bfloat16
    assert float(jnp.abs(ours.astype("float32") - exact).max() / jnp.abs(exact).max()) < 0.01
