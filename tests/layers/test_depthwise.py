import jax
import numpy as np
import pytest

from jaxvision.layers.depthwise import depthwise_conv


def reference(inputs, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        inputs,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=inputs.shape[-1],
    )


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("size", "padding", "shape"), [(3, 1, (9, 8)), (5, 2, (8, 11)), (2, 0, (8, 9)), (3, 0, (8, 8))]
)
def test_output_and_gradients_equal_xlas(size, padding, stride, shape):
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (2, *shape, 3))
    kernel = jax.random.normal(keys[1], (size, size, 1, 3))

    @jax.jit
    def run(inputs, kernel):
        ours = lambda x, k: depthwise_conv(x, k, stride=stride, padding=padding)  # noqa: E731
        theirs = lambda x, k: reference(x, k, stride, padding)  # noqa: E731
        results = []
        for function in (ours, theirs):
            output, pull = jax.vjp(function, inputs, kernel)
            results.append((output, *pull(jax.random.normal(keys[2], output.shape))))
        return results

    for left, right in zip(*run(inputs, kernel), strict=True):
        np.testing.assert_allclose(left, right, atol=5e-5)


@pytest.mark.parametrize(
    ("size", "sides", "stride"),
    [(3, ((0, 1), (0, 1)), 2), (5, ((1, 2), (2, 2)), 2), (3, ((2, 0), (0, 3)), 1)],
)
def test_sides_may_differ(size, sides, stride):
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (2, 8, 9, 3))
    kernel = jax.random.normal(keys[1], (size, size, 1, 3))

    def ours(inputs, kernel):
        return depthwise_conv(inputs, kernel, stride=stride, padding=sides)

    def theirs(inputs, kernel):
        return jax.lax.conv_general_dilated(
            inputs,
            kernel,
            (stride, stride),
            sides,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )

    @jax.jit
    def run(function_inputs, kernel):
        results = []
        for function in (ours, theirs):
            output, pull = jax.vjp(function, function_inputs, kernel)
            results.append((output, *pull(jax.random.normal(keys[2], output.shape))))
        return results

    for left, right in zip(*run(inputs, kernel), strict=True):
        np.testing.assert_allclose(left, right, atol=5e-5)


def test_a_jaxpr_names_it_once():
    inputs, kernel = np.ones((1, 4, 4, 3), "f"), np.ones((3, 3, 1, 3), "f")
    jaxpr = jax.make_jaxpr(lambda x, k: depthwise_conv(x, k, padding=1))(inputs, kernel)
    assert [equation.params.get("name") for equation in jaxpr.eqns] == ["depthwise_conv"]


def test_other_backends_use_xlas_convolution(monkeypatch):
    inputs, kernel = np.ones((1, 4, 4, 3), "f"), np.ones((3, 3, 1, 3), "f")

    def primitives():
        jaxpr = jax.make_jaxpr(lambda x, k: depthwise_conv(x, k, padding=1))(inputs, kernel)
        return {equation.primitive.name for equation in jaxpr.eqns}

    assert "conv_general_dilated" not in primitives()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert primitives() == {"conv_general_dilated"}


def test_bfloat16_sums_its_kernel_gradient_in_float32():
    keys = jax.random.split(jax.random.key(0), 2)
    inputs = jax.random.normal(keys[0], (4, 16, 16, 3))
    kernel = jax.random.normal(keys[1], (3, 3, 1, 3))

    @jax.jit
    def grad(inputs, kernel):
        loss = lambda k: depthwise_conv(inputs, k, padding=1).sum(dtype="float32")  # noqa: E731
        return jax.grad(loss)(kernel)

    low = grad(inputs.astype("bfloat16"), kernel.astype("bfloat16"))
    assert low.dtype == "bfloat16"
    high = grad(inputs.astype("bfloat16").astype("float32"), kernel)
    np.testing.assert_allclose(low.astype("float32"), high, rtol=1e-2, atol=0.1)
