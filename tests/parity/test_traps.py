"""Where a port goes wrong unseen: our layer agrees with torch's, the obvious JAX one does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.conv import Conv
from jaxvision.layers.mlp import gelu
from jaxvision.layers.norm import BatchNorm, layer_norm
from jaxvision.layers.pool import max_pool

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
BAR = 2e-6  # of numbers around 1, in float32
FLOAT32 = {"dtype": "float32", "param_dtype": "float32"}
MAP = np.random.default_rng(0).standard_normal((2, 8, 8, 4)).astype(np.float32)
NCHW = torch.from_numpy(MAP.transpose(0, 3, 1, 2).copy())


def off(ours, theirs):
    theirs = theirs.detach().numpy()
    if theirs.ndim == 4:
        theirs = theirs.transpose(0, 2, 3, 1)
    return float(np.abs(np.asarray(ours) - theirs).max())


def test_gelu_is_exact():
    values = np.linspace(-5.0, 5.0, 1001, dtype=np.float32)
    theirs = torch.nn.GELU()(torch.from_numpy(values))
    assert off(gelu(jnp.asarray(values)), theirs) < BAR
    assert off(jax.nn.gelu(values), theirs) > 1e-4


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_layer_norm_epsilon_and_variance(eps):
    values = 1e-2 * MAP.reshape(-1, 4) + 10.0  # a mean far from zero, a variance near epsilon
    theirs = torch.nn.LayerNorm(4, eps=eps)(torch.from_numpy(values))

    def ours(eps):
        return layer_norm(4, eps=eps, rngs=nnx.Rngs(0), **FLOAT32)(jnp.asarray(values))

    bar = 1e-3  # the numbers themselves are known to 1e-6 / 1e-2 only
    assert off(ours(eps), theirs) < bar
    assert off(ours(1.1e-5 - eps), theirs) > 10 * bar
    fast = nnx.LayerNorm(4, epsilon=eps, rngs=nnx.Rngs(0))
    assert off(fast(jnp.asarray(values)), theirs) > 10 * bar


def test_padding_is_symmetric():
    peer = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
    kernel = jnp.asarray(peer.weight.detach().numpy().transpose(2, 3, 1, 0))
    ours = Conv(4, 6, 3, stride=2, rngs=nnx.Rngs(0), **FLOAT32)
    ours.kernel[...] = kernel
    assert off(ours(jnp.asarray(MAP)), peer(NCHW)) < BAR
    same = nnx.Conv(4, 6, (3, 3), strides=(2, 2), use_bias=False, rngs=nnx.Rngs(0))
    same.kernel[...] = kernel
    assert off(same(jnp.asarray(MAP)), peer(NCHW)) > 0.1


def test_max_pool_pads_with_minus_infinity_on_all_sides():
    images, peer = -np.abs(MAP) - 1.0, torch.nn.MaxPool2d(3, stride=2, padding=1)
    theirs = peer(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    ours = max_pool(jnp.asarray(images), kernel_size=3, stride=2, padding=1)
    assert off(ours, theirs) == 0.0
    same = nnx.max_pool(jnp.asarray(images), (3, 3), strides=(2, 2), padding="SAME")
    assert off(same, theirs) > 0.1


def test_batch_norm_momentum_and_unbiased_variance():
    peer = torch.nn.BatchNorm2d(4).train()
    ours = BatchNorm(4, **FLOAT32)
    theirs = nnx.BatchNorm(4, momentum=0.9, use_running_average=False, rngs=nnx.Rngs(0))
    default = nnx.BatchNorm(4, use_running_average=False, rngs=nnx.Rngs(0))
    for _ in range(3):
        assert off(ours(jnp.asarray(MAP), train=True), peer(NCHW)) < 2 * BAR
        theirs(jnp.asarray(MAP))
        default(jnp.asarray(MAP))
    assert off(ours.mean[...], peer.running_mean) < BAR
    assert off(ours.var[...], peer.running_var) < BAR
    assert off(theirs.mean[...], peer.running_mean) < BAR
    assert off(theirs.var[...], peer.running_var) > 5e-4  # the biased variance
    assert off(default.var[...], peer.running_var) > 1e-2  # another momentum
