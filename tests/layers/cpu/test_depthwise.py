"""The multiply-adds of a CPU, against the convolution of XLA and its derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.layers.cpu import depthwise


def both(shape, size, stride, sides, dtype="float32"):
    """Returns (output, input gradient, kernel gradient) of our form and of XLA's."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal(shape), dtype)
    kernel = jnp.asarray(rng.standard_normal((size, size, 1, shape[-1])), dtype)
    window = {"stride": stride, "sides": sides}

    @jax.jit
    def run(inputs, kernel):
        xla = functools.partial(
            jax.lax.conv_general_dilated,
            window_strides=(stride, stride),
            padding=sides,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=shape[-1],
        )
        output, pull = jax.vjp(xla, inputs, kernel)
        grad = jnp.asarray(rng.standard_normal(output.shape), dtype)
        ours = (
            depthwise.convolve(inputs, kernel, **window),
            depthwise.input_gradient(kernel, grad, shape=shape, **window),
            depthwise.kernel_gradient(inputs, grad, size=size, **window),
        )
        return ours, (output, *pull(grad))

    return run(inputs, kernel)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("size", "zeros", "shape"), [(3, 1, (9, 8)), (5, 2, (8, 11)), (2, 0, (8, 9)), (3, 0, (8, 8))]
)
def test_output_and_gradients_equal_xlas(size, zeros, shape, stride):
    ours, theirs = both((2, *shape, 3), size, stride, ((zeros, zeros), (zeros, zeros)))
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, atol=5e-5)


@pytest.mark.parametrize(
    ("size", "sides", "stride"),
    [(3, ((0, 1), (0, 1)), 2), (5, ((1, 2), (2, 2)), 2), (3, ((2, 0), (0, 3)), 1)],
)
def test_sides_may_differ(size, sides, stride):
    for left, right in zip(*both((2, 8, 9, 3), size, stride, sides), strict=True):
        np.testing.assert_allclose(left, right, atol=5e-5)


def test_bfloat16_sums_its_kernel_gradient_in_float32():
    inputs = jax.random.normal(jax.random.key(0), (4, 16, 16, 3), "bfloat16")
    grad = jnp.ones_like(inputs)
    run = jax.jit(
        lambda *a: depthwise.kernel_gradient(*a, size=3, stride=1, sides=((1, 1), (1, 1)))
    )
    low, high = run(inputs, grad), run(inputs.astype("float32"), grad.astype("float32"))
    assert low.dtype == "bfloat16"
    np.testing.assert_allclose(low.astype("float32"), high, rtol=1e-2, atol=0.1)
