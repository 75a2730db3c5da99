import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.layers.group_norm import GroupNorm

DTYPES = {"dtype": "float32", "param_dtype": "float32"}


def test_equals_the_definition():
    norm = GroupNorm(6, groups=2, eps=1e-3, **DTYPES)
    norm.scale[...], norm.bias[...] = jnp.arange(1.0, 7.0), jnp.arange(6.0)
    inputs = np.random.default_rng(0).normal(2.0, 3.0, (2, 4, 3, 6)).astype("f")
    groups = inputs.astype("d").reshape(2, 12, 2, 3)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-3)
    expected = expected.reshape(inputs.shape) * np.arange(1, 7) + np.arange(6)
    np.testing.assert_allclose(norm(jnp.asarray(inputs)), expected, atol=1e-5)


def test_an_example_does_not_see_the_others():
    norm = GroupNorm(4, groups=4, eps=1e-5, **DTYPES)
    inputs = jax.random.normal(jax.random.key(0), (3, 2, 2, 4))
    np.testing.assert_allclose(norm(inputs)[1:2], norm(inputs[1:2]), atol=1e-6)


def test_exact_far_from_zero():
    norm = GroupNorm(4, groups=1, eps=1e-5, **DTYPES)
    inputs = 1000.0 + np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype("f")
    wide = inputs.astype("d")
    expected = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
    np.testing.assert_allclose(norm(jnp.asarray(inputs)), expected, atol=5e-4)


def test_bfloat16_has_float32_statistics():
    norm = GroupNorm(4, groups=2, eps=1e-5, dtype="bfloat16", param_dtype="float32")
    output = norm(jnp.full((1, 64, 64, 4), 3.0, jnp.bfloat16))
    assert output.dtype == jnp.bfloat16 and not output.astype(jnp.float32).any()


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="6 channels do not divide into 4 groups"):
        GroupNorm(6, groups=4, eps=1e-5, **DTYPES)


@pytest.mark.parity
def test_equals_torchs():
    torch = pytest.importorskip("torch")
    peer = torch.nn.GroupNorm(4, 8)
    generator = torch.Generator().manual_seed(0)
    for parameter in peer.parameters():
        parameter.data.copy_(torch.randn(8, generator=generator))
    norm = GroupNorm(8, groups=4, eps=peer.eps, **DTYPES)
    norm.scale[...] = jnp.asarray(peer.weight.detach().numpy())
    norm.bias[...] = jnp.asarray(peer.bias.detach().numpy())
    inputs = torch.randn((2, 8, 5, 3), generator=generator)
    ours = norm(jnp.asarray(inputs.numpy().transpose(0, 2, 3, 1)))
    theirs = peer(inputs).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
