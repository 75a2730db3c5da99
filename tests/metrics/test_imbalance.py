"""Losses for classes of unequal size, beside torch, torchvision, timm and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.metrics import class_balance
from jaxvision.metrics.classification import correct_by_class, topk_correct
from jaxvision.metrics.losses import sigmoid_focal, softmax_cross_entropy, softmax_focal
from jaxvision.tasks.classification import Classification
from jaxvision.tasks.sums import divide_sums

COUNTS = np.array([5000, 700, 40, 3])
WEIGHTS = (0.25, 1.5, 3.0, 7.0)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 32)
    return rng.normal(0, 3, (32, 4)), labels, rng.dirichlet(np.ones(4), 32)


def value_and_gradient(logits, labels, **options):
    task = Classification(**options)

    def loss(logits):
        return task.label_loss(logits, task.prepare({"label": jnp.asarray(labels)}))

    return jax.value_and_grad(loss)(jnp.asarray(logits))


def assert_equal(ours, theirs, x):
    theirs.backward()
    np.testing.assert_allclose(ours[0], theirs.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours[1], x.grad.numpy(), rtol=1e-9, atol=1e-14)


def both(batch, soft):
    import torch

    logits, labels, probabilities = batch
    labels = probabilities if soft else labels
    return logits, labels, torch.tensor(logits, requires_grad=True), torch.tensor(labels)


@pytest.mark.float64
@pytest.mark.parity
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_weighted_cross_entropy_is_torchs(batch, soft, epsilon):
    import torch

    logits, labels, x, y = both(batch, soft)
    ours = value_and_gradient(logits, labels, class_weights=WEIGHTS, label_smoothing=epsilon)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    entropy = torch.nn.functional.cross_entropy
    assert_equal(ours, entropy(x, y, weight=weight, label_smoothing=epsilon), x)


@pytest.mark.float64
@pytest.mark.parity
@pytest.mark.parametrize("alpha", [0.25, -1.0])
@pytest.mark.parametrize("gamma", [2.0, 0.5])
def test_sigmoid_focal_is_torchvisions(batch, gamma, alpha):
    import torch
    from torchvision.ops import sigmoid_focal_loss

    logits, labels, x, y = both(batch, soft=False)
    options = {"loss_name": "sigmoid_focal", "focal_gamma": gamma, "focal_alpha": alpha}
    ours = value_and_gradient(logits, labels, **options)
    one_hot = torch.nn.functional.one_hot(y, 4).double()
    assert_equal(ours, sigmoid_focal_loss(x, one_hot, alpha, gamma, reduction="mean"), x)


@pytest.mark.float64
@pytest.mark.parity
def test_softmax_focal_is_its_formula(batch):
    import torch

    logits, labels, x, y = both(batch, soft=False)
    options = {"loss_name": "focal", "focal_gamma": 2.0, "class_weights": WEIGHTS}
    ours = value_and_gradient(logits, labels, **options)
    p = torch.softmax(x, -1)[torch.arange(32), y]
    alpha = torch.tensor(WEIGHTS, dtype=torch.float64)[y]
    assert_equal(ours, (-alpha * (1 - p) ** 2 * torch.log(p)).sum() / alpha.sum(), x)


@pytest.mark.float64
@pytest.mark.parity
def test_logit_adjustment_is_its_formula(batch):
    import torch

    logits, labels, x, y = both(batch, soft=False)
    shifts = tuple((1.5 * class_balance.log_priors(COUNTS)).tolist())
    ours = value_and_gradient(logits, labels, logit_shifts=shifts)
    adjusted = x + 1.5 * torch.log(torch.tensor(COUNTS / COUNTS.sum()))
    assert_equal(ours, torch.nn.functional.cross_entropy(adjusted, y), x)


def test_special_cases_are_the_cross_entropy(batch):
    logits, labels, _ = map(jnp.asarray, batch)
    expected = softmax_cross_entropy(logits, labels, label_smoothing=0.1)
    found = softmax_focal(logits, labels, gamma=0.0, label_smoothing=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("loss", [softmax_focal, sigmoid_focal])
def test_certain_examples_have_finite_gradients(loss, gamma):
    logits = jnp.array([[200.0, 0.0, -200.0], [-200.0, 0.0, 200.0]])
    grads = jax.grad(lambda x: loss(x, jnp.array([0, 0]), gamma=gamma).sum())(logits)
    assert jnp.isfinite(grads).all()


@pytest.mark.float64
@pytest.mark.parametrize("name", ["softmax_cross_entropy", "bce", "focal", "sigmoid_focal"])
def test_micro_batches_have_the_weighted_mean_of_the_whole(batch, name):
    logits, labels, _ = map(jnp.asarray, batch)
    task = Classification(class_weights=WEIGHTS, loss_name=name)
    whole = task.prepare({"label": jnp.sort(labels)})
    parts = [
        task.label_loss(logits[rows], {key: x[rows] for key, x in whole.items()})
        for rows in (slice(i, i + 8) for i in range(0, 32, 8))
    ]
    np.testing.assert_allclose(sum(parts) / 4, task.label_loss(logits, whole), rtol=1e-12)


def test_weights_that_are_all_zero_in_a_batch_give_no_nan():
    weights = (0.0, 1.0, 1.0, 1.0)
    loss, grad = value_and_gradient(np.ones((2, 4), np.float32), [0, 0], class_weights=weights)
    assert loss == 0 and not grad.any()


@pytest.mark.parity
def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.repeat(np.arange(4), COUNTS)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(class_balance.balanced_weights(COUNTS), expected, rtol=1e-12)


@pytest.mark.parity
def test_effective_weights_are_the_papers_and_lie_between_none_and_balanced():
    weights = class_balance.effective_weights(COUNTS, beta=0.999)
    # The authors' code, from its README.
    effective_num = 1.0 - np.power(0.999, COUNTS)
    expected = (1.0 - 0.999) / np.array(effective_num)
    np.testing.assert_allclose(weights, expected / np.sum(expected) * 4, rtol=1e-12)
    np.testing.assert_allclose(class_balance.effective_weights(COUNTS, beta=0.0), 1.0)
    balanced = class_balance.balanced_weights(COUNTS)
    near = class_balance.effective_weights(COUNTS, beta=1 - 1e-9)
    np.testing.assert_allclose(near, balanced / balanced.sum() * 4, rtol=1e-5)


@pytest.mark.parity
def test_balanced_accuracy_is_scikit_learns():
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(1)
    logits = rng.normal(size=(60, 5)).astype(np.float32)
    labels = rng.choice(4, 60, p=[0.5, 0.3, 0.1, 0.1]).astype(np.int32)
    logits[:, 4] = -9  # a class that nobody has
    mask = rng.random(60) < 0.8
    totals = None
    for rows in (slice(0, 32), slice(32, 60)):
        part = jnp.asarray(logits[rows]), jnp.asarray(labels[rows])
        correct = topk_correct(*part, k=1)
        sums = correct_by_class(correct, part[1], jnp.asarray(mask[rows]), num_classes=5)
        totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
    found = divide_sums({"eval": {"balanced_accuracy": totals}})["eval/balanced_accuracy"]
    expected = balanced_accuracy_score(labels[mask], logits[mask].argmax(-1))
    assert found == pytest.approx(expected, abs=1e-12)
