import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.conv import (
    Conv,
    ConvNormAct,
    kaiming_depthwise,
    make_divisible,
    same_padding,
)

DTYPES = {"dtype": "float32", "param_dtype": "float32"}


def by_hand(inputs, kernel, stride, padding, groups):
    """A convolution as its definition reads, in float64."""
    inputs, kernel = np.asarray(inputs, np.float64), np.asarray(kernel, np.float64)
    inputs = np.pad(inputs, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    kernel_size, out_channels, size = kernel.shape[0], kernel.shape[3], kernel.shape[2]
    height = (inputs.shape[1] - kernel_size) // stride + 1
    width = (inputs.shape[2] - kernel_size) // stride + 1
    output = np.zeros((len(inputs), height, width, out_channels))
    for y, x, channel in np.ndindex(height, width, out_channels):
        group = channel // (out_channels // groups)
        patch = inputs[
            :, y * stride : y * stride + kernel_size, x * stride : x * stride + kernel_size
        ]
        patch = patch[..., group * size : (group + 1) * size]
        output[:, y, x, channel] = (patch * kernel[..., channel]).sum((1, 2, 3))
    return output


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("in_channels", "out_channels", "kernel_size", "groups"),
    [(4, 6, 3, 1), (4, 6, 1, 1), (4, 6, 3, 2), (4, 4, 5, 4), (4, 8, 3, 4), (4, 4, 1, 4)],
    ids=["dense", "1x1", "grouped", "depthwise", "multiplied", "scale"],
)
def test_equals_the_definition(in_channels, out_channels, kernel_size, groups, stride):
    conv = Conv(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        groups=groups,
        rngs=nnx.Rngs(0),
        **DTYPES,
    )
    inputs = jax.random.normal(jax.random.key(1), (2, 8, 7, in_channels))
    expected = by_hand(inputs, conv.kernel[...], stride, (kernel_size - 1) // 2, groups)
    np.testing.assert_allclose(conv(inputs), expected, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel_size", "groups"), [(3, 2), (1, 1), (5, 4)], ids=str)
@pytest.mark.parametrize("shape", [(8, 7), (1, 2)])
def test_same_padding_is_xlas(shape, kernel_size, groups, stride):
    conv = Conv(
        4, 4, kernel_size, stride=stride, groups=groups, padding="same", rngs=nnx.Rngs(0), **DTYPES
    )
    inputs = jax.random.normal(jax.random.key(1), (2, *shape, 4))
    expected = jax.lax.conv_general_dilated(
        inputs,
        conv.kernel[...],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    np.testing.assert_allclose(conv(inputs), expected, atol=1e-5)


def test_same_padding_puts_the_odd_zero_behind():
    assert same_padding(224, 3, 2) == (0, 1) and same_padding(225, 3, 2) == (1, 1)
    assert same_padding(224, 5, 2) == (1, 2) and same_padding(14, 1, 2) == (0, 0)


def test_padding_is_one_of_two():
    with pytest.raises(ValueError, match="padding must be one of symmetric, same, got 'valid'"):
        Conv(4, 4, 3, padding="valid", rngs=nnx.Rngs(0), **DTYPES)


def test_1x1_gradients_equal_those_of_a_convolution():
    conv = Conv(4, 6, 1, stride=2, rngs=nnx.Rngs(0), **DTYPES)
    inputs = jax.random.normal(jax.random.key(1), (2, 8, 8, 4))

    def reference(inputs, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            inputs, kernel, (2, 2), "VALID", dimension_numbers=numbers
        )

    def ours(inputs, kernel):
        graphdef, _ = nnx.split(conv)
        return nnx.merge(graphdef, {"kernel": kernel})(inputs)

    kernel = conv.kernel[...]
    left = jax.grad(lambda *args: (ours(*args) ** 2).sum(), argnums=(0, 1))(inputs, kernel)
    right = jax.grad(lambda *args: (reference(*args) ** 2).sum(), argnums=(0, 1))(inputs, kernel)
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


def test_bias_and_dtype():
    conv = Conv(3, 5, 3, use_bias=True, dtype="bfloat16", param_dtype="float32", rngs=nnx.Rngs(0))
    conv.bias[...] = jnp.arange(5.0)
    output = conv(jnp.zeros((1, 4, 4, 3)))
    assert output.dtype == jnp.bfloat16
    np.testing.assert_array_equal(output[0, 0, 0].astype(jnp.float32), np.arange(5.0))


def test_kaiming_by_fan_out():
    kernel = Conv(8, 64, 3, rngs=nnx.Rngs(0), **DTYPES).kernel[...]
    assert float(kernel.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    depthwise = kaiming_depthwise(jax.random.key(0), (5, 5, 1, 400), "float32")
    assert float(depthwise.std()) == pytest.approx((2 / 25) ** 0.5, rel=0.03)


def test_conv_norm_act():
    module = ConvNormAct(3, 4, 3, stride=2, rngs=nnx.Rngs(0), **DTYPES)
    inputs = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    output = module(inputs, train=True)
    assert output.shape == (2, 4, 4, 4) and float(output.min()) == 0.0
    linear = ConvNormAct(3, 4, 3, activation=None, rngs=nnx.Rngs(0), **DTYPES)
    assert float(linear(inputs, train=True).min()) < 0.0


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="multiples of groups=4"):
        Conv(6, 8, 3, groups=4, rngs=nnx.Rngs(0), **DTYPES)


@pytest.mark.parametrize(
    ("channels", "expected"), [(32, 32), (3, 8), (35, 32), (36, 40), (11, 16), (24.8, 24)]
)
def test_make_divisible(channels, expected):
    assert make_divisible(channels) == expected
