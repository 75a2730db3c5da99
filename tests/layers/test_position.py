import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.layers.position import resize_position_embedding, sincos_2d, sinusoids


def test_sinusoids_golden():
    table = sinusoids(50, 8)
    assert table.shape == (50, 8)
    np.testing.assert_array_equal(table[0], [0, 1] * 4)
    one = [0.841471, 0.540302, 0.099833, 0.995004, 0.01, 0.99995, 0.001, 1.0]
    two = [0.909297, -0.416147, 0.198669, 0.980067, 0.019999, 0.9998, 0.002, 0.999998]
    np.testing.assert_allclose(table[1:3], [one, two], atol=1e-6)
    np.testing.assert_allclose(table[49, 6:], [np.sin(0.049), np.cos(0.049)], atol=1e-12)


def test_sinusoids_message():
    with pytest.raises(ValueError, match="even number of channels, got 7"):
        sinusoids(5, 7)


def test_sincos_2d_golden():
    table = sincos_2d(2, 3, 8)
    assert table.shape == (6, 8)
    np.testing.assert_allclose(table[0], [0, 0, 1, 1, 0, 0, 1, 1], atol=1e-12)
    # Row 1, column 2: sin x, cos x, sin y, cos y at the frequencies 1 and 1e-4.
    expected = [np.sin(2), np.sin(2e-4), np.cos(2), np.cos(2e-4)]
    expected += [np.sin(1), np.sin(1e-4), np.cos(1), np.cos(1e-4)]
    np.testing.assert_allclose(table[5], expected, atol=1e-12)


def test_sincos_2d_message():
    with pytest.raises(ValueError, match="multiple of 4 channels, >= 8, got 6"):
        sincos_2d(2, 2, 6)


def test_resize_keeps_prefix_constants_and_the_same_grid():
    pos = jax.random.normal(jax.random.key(0), (1, 1 + 6, 4))
    assert resize_position_embedding(pos, (2, 3), (2, 3)) is pos
    larger = resize_position_embedding(pos, (2, 3), (4, 5))
    assert larger.shape == (1, 21, 4)
    np.testing.assert_array_equal(larger[:, 0], pos[:, 0])
    constant = resize_position_embedding(
        jnp.full((1, 6, 4), 2.5), (2, 3), (5, 4), num_prefix_tokens=0
    )
    np.testing.assert_allclose(constant, 2.5, rtol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("old", "new"), [((14, 14), (24, 24)), ((14, 14), (7, 10)), ((4, 6), (5, 3))]
)
def test_resize_equals_torch(old, new, interpolation, antialias):
    import torch

    grid = np.random.default_rng(0).normal(size=(1, *old, 5)).astype("f")
    expected = torch.nn.functional.interpolate(
        torch.tensor(grid.transpose(0, 3, 1, 2)), size=new, mode=interpolation, antialias=antialias
    )
    expected = expected.numpy().transpose(0, 2, 3, 1).reshape(1, -1, 5)
    pos = jnp.asarray(grid.reshape(1, -1, 5))
    ours = resize_position_embedding(
        pos, old, new, num_prefix_tokens=0, interpolation=interpolation, antialias=antialias
    )
    np.testing.assert_allclose(ours, expected, atol=5e-6)


def test_resize_message():
    with pytest.raises(ValueError, match="has 7 positions, but the table has 6"):
        resize_position_embedding(jnp.zeros((1, 6, 4)), (2, 3), (4, 4))
