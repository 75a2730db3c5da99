import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvision.errors import InputError
from jaxvision.metrics.losses import softmax_cross_entropy

LOGITS = jnp.array([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 3.0, 1.0]])
LABELS = jnp.array([0, 3])


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (64, 10)).astype(np.float32)
    soft = rng.dirichlet(np.ones(10), 64).astype(np.float32)
    return logits, rng.integers(0, 10, 64).astype(np.int32), soft


@pytest.mark.parametrize(
    ("epsilon", "expected"),
    [(0.0, 1.325594), (0.1, 1.400594), (0.1 * 4 / 3, 1.425594)],
    ids=["plain", "over all K", "over the K - 1 wrong ones"],
)
def test_golden(epsilon, expected):
    loss = softmax_cross_entropy(LOGITS, LABELS, label_smoothing=epsilon)
    np.testing.assert_allclose(jnp.mean(loss), expected, rtol=1e-6)


def test_smoothing_over_wrong_classes_is_the_documented_rescaling():
    targets = jnp.where(jax.nn.one_hot(LABELS, 4) == 1, 0.9, 0.1 / 3)
    np.testing.assert_allclose(
        softmax_cross_entropy(LOGITS, LABELS, label_smoothing=0.1 * 4 / 3),
        optax.softmax_cross_entropy(LOGITS, targets),
        rtol=1e-6,
    )


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_one_hot_labels_equal_indices(batch, epsilon):
    logits, labels, _ = map(jnp.asarray, batch)
    np.testing.assert_allclose(
        softmax_cross_entropy(logits, labels, label_smoothing=epsilon),
        softmax_cross_entropy(logits, jax.nn.one_hot(labels, 10), label_smoothing=epsilon),
        rtol=1e-5,
        atol=1e-6,
    )


def test_mixed_labels_are_mixed_losses():
    one_hot = jax.nn.one_hot(LABELS, 4)
    mixed = softmax_cross_entropy(LOGITS, 0.3 * one_hot + 0.7 * one_hot[::-1])
    parts = 0.3 * softmax_cross_entropy(LOGITS, LABELS)
    parts += 0.7 * softmax_cross_entropy(LOGITS, LABELS[::-1])
    np.testing.assert_allclose(mixed, parts, rtol=1e-6)


def test_bfloat16_logits_are_summed_in_float32(batch):
    logits, labels, _ = map(jnp.asarray, batch)
    low = logits.astype(jnp.bfloat16)
    loss = softmax_cross_entropy(low, labels)
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, softmax_cross_entropy(low.astype(jnp.float32), labels))


def test_large_and_infinite_logits_stay_finite():
    logits = jnp.array([[1e4, 0.0, -jnp.inf], [3e38, -3e38, 0.0]])
    loss = softmax_cross_entropy(logits, jnp.array([0, 0]))
    np.testing.assert_array_equal(loss, [0.0, 0.0])


def test_errors():
    with pytest.raises(InputError, match=r"in \[0, 1\), got 1.0"):
        softmax_cross_entropy(LOGITS, LABELS, label_smoothing=1.0)


@pytest.mark.parity
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_torch(batch, soft, epsilon):
    import torch

    logits, labels, probabilities = batch
    labels = probabilities if soft else labels
    x = torch.tensor(logits, requires_grad=True)
    y = torch.tensor(labels if soft else labels.astype(np.int64))
    theirs = torch.nn.functional.cross_entropy(x, y, reduction="none", label_smoothing=epsilon)
    theirs.sum().backward()

    def total(logits):
        losses = softmax_cross_entropy(logits, jnp.asarray(labels), label_smoothing=epsilon)
        return losses.sum(), losses

    grads, ours = jax.grad(total, has_aux=True)(jnp.asarray(logits))
    # Losses are up to 15 and gradients up to 1: a few float32 roundings.
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(grads, x.grad.numpy(), atol=1e-6)


@pytest.mark.float64
@pytest.mark.quick
def test_float64_stays_float64():
    loss = softmax_cross_entropy(LOGITS.astype(jnp.float64), LABELS, label_smoothing=0.1)
    assert loss.dtype == jnp.float64
