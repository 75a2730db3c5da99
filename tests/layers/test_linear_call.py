"""A linear function with a transpose of its own, under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.layers.linear_call import linear_call

MATRIX, VECTOR = jnp.arange(6.0).reshape(2, 3), jnp.array([1.0, -2.0, 0.5])


def product(matrix, vector):
    """The product, whose transpose is twice the true one, so that one sees which was used."""
    (result,) = linear_call(
        lambda matrix, vector: (matrix[0] @ vector[0],),
        lambda matrix, grad: (2 * matrix[0].T @ grad[0],),
        (matrix,),
        (vector,),
    )
    return result


def test_forward_mode_runs_the_function_and_reverse_mode_the_transpose():
    run = lambda vector: product(MATRIX, vector)  # noqa: E731
    np.testing.assert_array_equal(jax.jvp(run, (VECTOR,), (VECTOR,))[1], MATRIX @ VECTOR)
    np.testing.assert_array_equal(jax.jacfwd(run)(VECTOR), MATRIX)
    np.testing.assert_array_equal(jax.jacrev(run)(VECTOR), 2 * MATRIX)
    transposed = lambda grad: jax.linear_transpose(run, VECTOR)(grad)[0]  # noqa: E731
    np.testing.assert_array_equal(jax.jacrev(transposed)(jnp.ones(2)), MATRIX.T)


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, lambda f: f], ids=["jit", "remat", "no"])
def test_residuals_are_differentiated_too(wrap):
    loss = lambda matrix: (product(matrix, VECTOR) ** 2).sum()  # noqa: E731
    expected = 2 * jnp.outer(MATRIX @ VECTOR, VECTOR)
    np.testing.assert_allclose(jax.grad(wrap(loss))(MATRIX), expected)
    np.testing.assert_allclose(jax.jacfwd(wrap(loss))(MATRIX), expected)


def test_scan_and_vmap():
    def scanned(vector):
        return jax.lax.scan(lambda x, _: (product(MATRIX[:, :2], x), None), vector, length=3)[0]

    once = np.asarray(MATRIX[:, :2])
    np.testing.assert_allclose(jax.jacrev(scanned)(VECTOR[:2]), 8 * once @ once @ once)
    matrices = jnp.stack([MATRIX, 3 * MATRIX])
    gradient = jax.vmap(jax.grad(lambda *a: product(*a).sum(), 1), (0, None))(matrices, VECTOR)
    np.testing.assert_array_equal(gradient, 2 * matrices.sum(1))


def test_inputs_may_be_constants_in_part():
    def both(first, second):
        return linear_call(
            lambda _, x: (x[0] + 3 * x[1],), lambda _, g: (g[0], 3 * g[0]), (), (first, second)
        )[0]

    assert jax.grad(lambda x: both(x, 0.0))(1.0) == 1.0
    assert jax.grad(lambda x: both(0.0, x))(1.0) == 3.0
