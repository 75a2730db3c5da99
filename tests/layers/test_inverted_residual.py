import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.activation import hard_sigmoid
from jaxvision.layers.inverted_residual import InvertedResidual

INPUTS = jax.random.normal(jax.random.key(1), (4, 6, 5, 8))


def build(expanded=16, out=8, **options):
    options = {"kernel_size": 3, "stride": 1, "activation": nnx.relu} | options
    return InvertedResidual(
        8, expanded, out, dtype="float32", param_dtype="float32", rngs=nnx.Rngs(0), **options
    )


def test_the_narrow_ends_are_joined_where_they_have_one_shape():
    block = build()
    block.project.norm.scale[...] = jnp.zeros(8)
    np.testing.assert_array_equal(block(INPUTS), INPUTS)
    for other in (build(stride=2), build(out=16)):
        other.project.norm.scale[...] = jnp.zeros(other.project.norm.scale.shape)
        assert not other(INPUTS).any()


def test_the_projection_has_no_activation():
    block = build(out=16)
    assert float(block(INPUTS).min()) < 0
    assert build(stride=2)(INPUTS).shape == (4, 3, 3, 8)


def test_parts():
    assert build(expanded=8).expand is None and build().expand is not None
    assert build().squeeze_excite is None
    squeeze = build(squeezed_channels=4, gate=hard_sigmoid).squeeze_excite
    assert squeeze.reduce.kernel.shape == (1, 1, 16, 4) and squeeze.gate is hard_sigmoid
    block = build(padding="same", norm_eps=1e-3, norm_momentum=0.01)
    for part in (block.expand, block.depthwise, block.project):
        assert (part.conv.padding, part.norm.eps, part.norm.momentum) == ("same", 1e-3, 0.01)


def test_drop_path_drops_the_branch_of_whole_examples():
    block = build(drop_path_rate=0.5)
    np.testing.assert_array_equal(block(INPUTS), build()(INPUTS))
    branch = build()(INPUTS, train=True) - INPUTS
    outputs = block(INPUTS, train=True, rngs=nnx.Rngs(dropout=1))
    kept = [bool(jnp.any(output != image)) for output, image in zip(outputs, INPUTS, strict=True)]
    assert 0 < sum(kept) < len(kept)
    expected = INPUTS + 2 * jnp.array(kept).reshape(-1, 1, 1, 1) * branch
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    with pytest.raises(ValueError, match="rngs is None"):
        block(INPUTS, train=True)
    build(drop_path_rate=0.5, stride=2)(INPUTS, train=True)  # no shortcut, nothing to drop
