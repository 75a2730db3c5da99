import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.std_conv import StdConv, standardise

DTYPES = {"dtype": "float32", "param_dtype": "float32"}
INPUTS = jax.random.normal(jax.random.key(1), (2, 9, 8, 3))


def test_the_kernel_has_mean_0_and_variance_1():
    kernel = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (3, 3, 4, 5))
    flat = np.asarray(standardise(kernel, 1e-8)).reshape(-1, 5)
    np.testing.assert_allclose(flat.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(flat.var(0), 1.0, rtol=1e-5)
    small = np.asarray(standardise(1e-3 * kernel, 1e-2)).reshape(-1, 5)
    assert (small.var(0) < 1e-3).all(), "eps is added to the variance"


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_shift_and_scale_of_the_kernel_do_not_show(kernel_size):
    conv = StdConv(3, 4, kernel_size, rngs=nnx.Rngs(0), **DTYPES)
    before = conv(INPUTS)
    conv.kernel[...] = 5.0 * conv.kernel[...] + 2.0
    np.testing.assert_allclose(conv(INPUTS), before, atol=1e-3)


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_the_output_has_a_pixel_for_each_stride(kernel_size):
    conv = StdConv(3, 4, kernel_size, stride=2, rngs=nnx.Rngs(0), **DTYPES)
    assert conv(INPUTS).shape == (2, 5, 4, 4)


def test_kernel_is_standardised_in_the_dtype_of_the_parameters():
    conv = StdConv(3, 4, 3, dtype="bfloat16", param_dtype="float32", rngs=nnx.Rngs(0))
    conv.kernel[...] = conv.kernel[...] + 1000.0  # all digits of a bfloat16
    output = conv(INPUTS)
    assert output.dtype == jnp.bfloat16 and float(jnp.abs(output).max()) > 1.0


@pytest.mark.parity
@pytest.mark.parametrize("size", [(8, 8), (9, 6), (7, 7)])
@pytest.mark.parametrize(("kernel_size", "stride"), [(7, 2), (3, 2), (3, 1), (1, 2)])
def test_equals_timms(kernel_size, stride, size):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    peer = timm.layers.StdConv2dSame(3, 5, kernel_size, stride=stride, eps=1e-8)
    conv = StdConv(3, 5, kernel_size, stride=stride, rngs=nnx.Rngs(0), **DTYPES)
    conv.kernel[...] = jnp.asarray(peer.weight.detach().numpy().transpose(2, 3, 1, 0))
    inputs = np.random.default_rng(0).standard_normal((2, *size, 3)).astype("f")
    theirs = peer(torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy())).detach().numpy()
    np.testing.assert_allclose(conv(jnp.asarray(inputs)), theirs.transpose(0, 2, 3, 1), atol=2e-5)
