import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.pool import adaptive_avg_pool, avg_pool, global_pool, max_pool

IMAGE = jnp.arange(16.0).reshape(1, 4, 4, 1)


def test_max_pool_pads_with_minus_infinity_on_every_side():
    output = max_pool(-1.0 - IMAGE, kernel_size=3, stride=2, padding=1)
    np.testing.assert_array_equal(output[0, :, :, 0], [[-1, -2], [-5, -6]])


@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
@pytest.mark.parametrize("side", [8, 9])
def test_max_pool_equals_xlas_reduction(kernel_size, stride, padding, side):
    image = jax.random.normal(jax.random.key(0), (2, side, 7, 3))

    def reduction(image):
        sides = ((padding, padding), (padding, padding))
        return nnx.max_pool(image, (kernel_size, kernel_size), (stride, stride), sides)

    def ours(image):
        return max_pool(image, kernel_size=kernel_size, stride=stride, padding=padding)

    def output_and_gradient(function):
        output, pull = jax.vjp(function, image)
        return output, pull(jnp.sin(jnp.arange(output.size)).reshape(output.shape))[0]

    run = jax.jit(output_and_gradient, static_argnums=0)
    for left, right in zip(run(ours), run(reduction), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


def test_max_pool_ties_go_to_the_first_and_nan_stays():
    image = jnp.zeros((1, 2, 2, 1))
    grad = jax.grad(lambda image: max_pool(image, kernel_size=2, stride=2).sum())(image)
    np.testing.assert_array_equal(grad[0, :, :, 0], [[1, 0], [0, 0]])
    for pixel in ((0, 0, 0, 0), (0, 0, 1, 0), (0, 1, 1, 0)):
        assert bool(
            jnp.isnan(max_pool(image.at[pixel].set(jnp.nan), kernel_size=2, stride=2)).all()
        )


def test_avg_pool_counts_the_padding_or_not():
    counted = avg_pool(IMAGE, kernel_size=2, stride=2, padding=1)
    np.testing.assert_allclose(counted[0, 0, :, 0], [0, 3 / 4, 3 / 4])
    ignored = avg_pool(IMAGE, kernel_size=2, stride=2, padding=1, count_include_pad=False)
    np.testing.assert_allclose(ignored[0, 0, :, 0], [0, 1.5, 3])


def test_adaptive_avg_pool_of_a_multiple_is_the_plain_one():
    image = jax.random.normal(jax.random.key(0), (2, 14, 14, 3))
    plain = avg_pool(image, kernel_size=2, stride=2)
    np.testing.assert_allclose(adaptive_avg_pool(image, 7), plain, atol=1e-6)
    np.testing.assert_allclose(adaptive_avg_pool(plain, 7), plain, atol=1e-6)
    np.testing.assert_allclose(adaptive_avg_pool(image, 1)[:, 0, 0], global_pool(image), atol=1e-6)


def test_adaptive_avg_pool_windows_overlap():
    row = jnp.asarray([0.0, 1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 5, 1)
    pooled = adaptive_avg_pool(row, 3)[0, :, :, 0]
    # [0, 2), [1, 4) and [3, 5); the single row is seen three times
    np.testing.assert_allclose(pooled, [[0.5, 2.0, 3.5]] * 3, atol=1e-6)
    assert adaptive_avg_pool(row.astype(jnp.bfloat16), 3).dtype == jnp.bfloat16


def test_global_pool():
    np.testing.assert_allclose(global_pool(IMAGE), [[7.5]])
    low = jnp.ones((1, 64, 64, 2), jnp.bfloat16)  # a bfloat16 sum would stop growing at 256
    np.testing.assert_array_equal(global_pool(low).astype("float32"), np.ones((1, 2)))
