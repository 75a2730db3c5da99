import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.layers.over_batch import over_batch
from jaxvision.target_platform import tracing_for


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_repeats_and_sums_its_gradient(platform):
    table = jax.random.normal(jax.random.key(0), (1, 3, 4))
    weights = jax.random.normal(jax.random.key(1), (5, 3, 4))
    with tracing_for(platform):
        np.testing.assert_array_equal(over_batch(table, 5), np.repeat(table, 5, axis=0))
        grad = jax.grad(lambda t: (over_batch(t, 5) * weights).sum())(table)
        np.testing.assert_allclose(grad, weights.sum(0, keepdims=True), atol=1e-6)
        moved = jax.jvp(lambda t: over_batch(t, 5), (table,), (table,))[1]
        np.testing.assert_array_equal(moved, np.repeat(table, 5, axis=0))


def test_a_gpu_sums_by_a_product_of_the_layout_that_is_there():
    with tracing_for("gpu"):
        loss = lambda t: jnp.sin(over_batch(t, 16)).sum()  # noqa: E731
        text = jax.jit(jax.grad(loss)).lower(jnp.ones((1, 3, 4), jnp.bfloat16)).as_text()
    assert "dot_general" in text and "stablehlo.reduce" not in text.split("func.func private")[0]
