import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import InputError
from jaxvision.metrics.distillation import (
    feature_distillation,
    hard_distillation,
    soft_distillation,
)
from jaxvision.metrics.losses import binary_cross_entropy, smoothing_of_all

RNG = np.random.default_rng(0)
STUDENT, TEACHER = map(jnp.asarray, RNG.normal(0, 2, (2, 6, 5)).astype(np.float32))
MAPS, OTHERS = map(jnp.asarray, RNG.normal(0, 2, (2, 3, 4, 5, 7)).astype(np.float32))


def test_a_student_that_says_the_same_has_nothing_to_learn():
    value, gradient = jax.value_and_grad(
        lambda x: jnp.sum(soft_distillation(x, TEACHER, temperature=4.0))
    )(TEACHER + 3.0)  # a constant changes no probability
    assert abs(value) < 1e-5
    np.testing.assert_allclose(gradient, np.zeros_like(gradient), atol=1e-6)


def test_no_gradient_reaches_the_teacher():
    for loss in (soft_distillation, hard_distillation):
        assert not jnp.any(jax.grad(lambda t, f=loss: jnp.sum(f(STUDENT, t)))(TEACHER))
    for kind in ("mse", "cosine"):
        loss = lambda t, k=kind: jnp.sum(feature_distillation(MAPS, t, kind=k))  # noqa: E731
        assert not jnp.any(jax.grad(loss)(OTHERS))


def test_temperature_keeps_the_size_of_the_gradient():
    """At high temperatures it is that of half the squared difference of the logits (Hinton)."""
    at = jax.grad(lambda x: jnp.sum(soft_distillation(x, TEACHER, temperature=200.0)))(STUDENT)
    centred = lambda x: x - jnp.mean(x, -1, keepdims=True)  # noqa: E731
    limit = (centred(STUDENT) - centred(TEACHER)) / STUDENT.shape[1]
    np.testing.assert_allclose(at, limit, rtol=0.05, atol=0.02)


def test_features():
    mse = feature_distillation(MAPS, OTHERS, kind="mse")
    np.testing.assert_allclose(mse, ((MAPS - OTHERS) ** 2).mean((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(feature_distillation(MAPS, 5 * MAPS, kind="cosine"), 0, atol=1e-6)
    np.testing.assert_allclose(feature_distillation(MAPS, -MAPS, kind="cosine"), 2, rtol=1e-6)
    zeros = jnp.zeros_like(MAPS)
    loss = lambda x: jnp.sum(feature_distillation(x, OTHERS, kind="cosine"))  # noqa: E731
    assert jnp.all(jnp.isfinite(jax.grad(loss)(zeros)))


def test_binary_cross_entropy_of_certain_logits():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    np.testing.assert_allclose(
        binary_cross_entropy(logits, jnp.array([0])), [np.log(2) / 3], rtol=1e-6
    )
    mixed = jnp.array([[0.7, 0.3, 0.0]])
    both = binary_cross_entropy(logits, mixed, target_threshold=0.2)
    np.testing.assert_allclose(both, [(1e4 + np.log(2)) / 3], rtol=1e-6)


def test_smoothing_over_the_wrong_classes_has_a_limit():
    assert smoothing_of_all(0.1, 4) == pytest.approx(0.1 * 4 / 3)
    with pytest.raises(InputError, match=r"\[0, 0.5\)"):
        smoothing_of_all(0.5, 2)
