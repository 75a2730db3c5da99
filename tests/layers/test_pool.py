import jax.numpy as jnp
import numpy as np

from jaxvision.layers.pool import avg_pool, global_pool, max_pool

IMAGE = jnp.arange(16.0).reshape(1, 4, 4, 1)


def test_max_pool_pads_with_minus_infinity_on_every_side():
    output = max_pool(-1.0 - IMAGE, window=3, stride=2, padding=1)
    np.testing.assert_array_equal(output[0, :, :, 0], [[-1, -2], [-5, -6]])


def test_avg_pool_counts_the_padding_or_not():
    counted = avg_pool(IMAGE, window=2, stride=2, padding=1)
    np.testing.assert_allclose(counted[0, 0, :, 0], [0, 3 / 4, 3 / 4])
    ignored = avg_pool(IMAGE, window=2, stride=2, padding=1, count_include_pad=False)
    np.testing.assert_allclose(ignored[0, 0, :, 0], [0, 1.5, 3])


def test_global_pool():
    np.testing.assert_allclose(global_pool(IMAGE), [[7.5]])
    low = jnp.ones((1, 64, 64, 2), jnp.bfloat16)  # a bfloat16 sum would stop growing at 256
    np.testing.assert_array_equal(global_pool(low).astype("float32"), np.ones((1, 2)))
