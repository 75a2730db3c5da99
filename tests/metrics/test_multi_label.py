"""Losses and scores of several labels an image, beside torch, torchvision, timm and the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.metrics import multi_label as scores
from jaxvision.tasks.multi_label import MultiLabel

NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.fixture
def batch():
    """Logits and labels of 40 images; a class is rare, many scores are equal, many unknown."""
    rng = np.random.default_rng(0)
    logits = np.round(rng.normal(0, 2, (40, 6)), 1)
    labels = (rng.random((40, 6)) < [0.5, 0.3, 0.2, 0.1, 0.5, 0.9]).astype(np.int32)
    unknown = np.where(rng.random((40, 6)) < 0.25, -1, labels)
    return logits, labels, unknown


def value_and_gradient(logits, labels, **options):
    task = MultiLabel(**options)

    def loss(logits):
        return task.label_loss(logits, task.prepare({"label": jnp.asarray(labels)}))

    return jax.value_and_grad(loss)(jnp.asarray(logits))


def assert_equal(ours, theirs, x):
    theirs.backward()
    np.testing.assert_allclose(ours[0], theirs.detach().numpy(), rtol=1e-11)
    np.testing.assert_allclose(ours[1], x.grad.numpy(), rtol=1e-9, atol=1e-12)


def tensors(logits, labels):
    import torch

    return torch.tensor(logits, requires_grad=True), torch.tensor(labels, dtype=torch.float64)


@pytest.mark.float64
@pytest.mark.parity
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 3.0, 4.0, 0.5, 0.1)])
def test_bce_is_timms(batch, smoothing, weights):
    import torch
    from timm.loss import BinaryCrossEntropy

    logits, labels, _ = batch
    ours = value_and_gradient(logits, labels, label_smoothing=smoothing, positive_weights=weights)
    x, y = tensors(logits, labels)
    weight = torch.tensor(weights, dtype=torch.float64) if weights else None
    theirs = BinaryCrossEntropy(smoothing=smoothing, smooth_dense=True, pos_weight=weight)
    assert_equal(ours, theirs(x, y), x)


@pytest.mark.float64
@pytest.mark.parity
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("options", [(4.0, 1.0, 0.05), (2.0, 0.0, 0.0), (0.0, 0.0, 0.2)])
def test_asymmetric_is_timms(batch, options, smoothing, monkeypatch):
    import torch
    from timm.loss import AsymmetricLossMultiLabel

    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)  # it would leave float64
    logits, labels, _ = batch
    negative, positive, clip = options
    ours = value_and_gradient(
        logits,
        labels,
        loss_name="asymmetric",
        gamma_negative=negative,
        gamma_positive=positive,
        negative_clip=clip,
        label_smoothing=smoothing,
    )
    x, y = tensors(logits, labels)
    theirs = AsymmetricLossMultiLabel(negative, positive, clip, smoothing=smoothing)
    assert_equal(ours, theirs(x, y), x)


@pytest.mark.float64
@pytest.mark.parity
def test_focal_is_torchvisions(batch):
    from torchvision.ops import sigmoid_focal_loss

    logits, labels, _ = batch
    x, y = tensors(logits, labels)
    ours = value_and_gradient(logits, labels, loss_name="sigmoid_focal", focal_alpha=0.3)
    assert_equal(ours, sigmoid_focal_loss(x, y, 0.3, 2.0, reduction="mean"), x)


@pytest.mark.float64
@pytest.mark.parity
def test_unknown_labels_count_nothing(batch):
    import torch

    logits, _, unknown = batch
    ours = value_and_gradient(logits, unknown)
    x, y = tensors(logits, unknown)
    known = y >= 0
    assert_equal(ours, torch.nn.functional.binary_cross_entropy_with_logits(x[known], y[known]), x)
    assert not np.asarray(ours[1])[unknown < 0].any()


@pytest.mark.float64
@pytest.mark.parametrize("name", ["bce", "sigmoid_focal", "asymmetric"])
def test_micro_batches_have_the_mean_of_the_whole(batch, name):
    logits, _, unknown = batch
    task = MultiLabel(loss_name=name)
    whole = task.prepare({"label": jnp.asarray(np.sort(unknown, axis=0))})
    parts = [
        task.label_loss(
            jnp.asarray(logits[i : i + 10]), {k: x[i : i + 10] for k, x in whole.items()}
        )
        for i in range(0, 40, 10)
    ]
    np.testing.assert_allclose(sum(parts) / 4, task.label_loss(jnp.asarray(logits), whole))


@pytest.mark.parametrize("name", ["bce", "sigmoid_focal", "asymmetric"])
def test_a_batch_that_nobody_knows_gives_no_nan(name):
    labels = np.full((4, 3), -1, np.int32)
    loss, grad = value_and_gradient(np.ones((4, 3), np.float32), labels, loss_name=name)
    assert loss == 0 and not grad.any()


@pytest.mark.parity
def test_average_precision_is_scikit_learns_and_torchmetrics(batch):
    import torch
    from sklearn.metrics import average_precision_score
    from torchmetrics.functional.classification import multilabel_average_precision

    logits, labels, unknown = batch
    shares = scores.sigmoid(logits)
    found = scores.mean_average_precision(shares, labels)
    for average, key in (("macro", "map"), ("micro", "map_micro")):
        assert found[key] == pytest.approx(
            average_precision_score(labels, shares, average=average), abs=1e-9
        )
    found = scores.mean_average_precision(shares, unknown)
    each = [
        average_precision_score(y[y >= 0], p[y >= 0])
        for y, p in zip(unknown.T, shares.T, strict=True)
    ]
    assert found["map"] == pytest.approx(np.mean(each), abs=1e-9)
    for average, key in (("macro", "map"), ("micro", "map_micro")):
        theirs = multilabel_average_precision(
            torch.tensor(shares), torch.tensor(unknown), 6, average, ignore_index=-1
        )
        assert found[key] == pytest.approx(theirs.item(), abs=1e-6)  # it sums in float32


@pytest.mark.parity
@pytest.mark.parametrize("known", [True, False])
def test_f1_is_scikit_learns_and_torchmetrics(batch, known):
    import torch
    from sklearn.metrics import (
        f1_score,
        multilabel_confusion_matrix,
        precision_recall_fscore_support,
    )
    from torchmetrics.functional.classification import multilabel_f1_score

    logits, labels, unknown = batch
    labels = labels if known else unknown
    shares = scores.sigmoid(logits)
    said = shares >= 0.5
    found = scores.f1_scores(said, labels)
    for average, key in (("macro", "f1"), ("micro", "f1_micro")):
        theirs = multilabel_f1_score(
            torch.tensor(said.astype(float)), torch.tensor(labels), 6, 0.5, average, "global", -1
        )
        assert found[key] == pytest.approx(theirs.item(), abs=1e-6)  # it divides in float32
        if known:
            expected = f1_score(labels, said, average=average)
            assert found[key] == pytest.approx(expected, abs=1e-12)
    if known:
        precision, recall, f1, _ = precision_recall_fscore_support(labels, said)
        expected = {"precision": precision, "recall": recall, "f1_by_class": f1}
        for key, values in expected.items():
            np.testing.assert_allclose(found[key], values, atol=1e-12)
        outcomes = scores.count_outcomes(said, labels)
        matrix = multilabel_confusion_matrix(labels, said)
        ours = [outcomes[key] for key in ("tn", "fp", "fn", "tp")]
        np.testing.assert_array_equal(np.stack(ours, axis=1), matrix.reshape(6, 4))


@pytest.mark.parity
def test_thresholds_are_the_best_of_scikit_learns_curve(batch):
    from sklearn.metrics import f1_score, precision_recall_curve

    logits, labels, unknown = batch
    shares = scores.sigmoid(logits)
    for truth in (labels, unknown):
        thresholds = scores.best_thresholds(shares, truth)
        for p, y, threshold in zip(shares.T, truth.T, thresholds, strict=True):
            p, y = p[y >= 0], y[y >= 0]
            candidates = precision_recall_curve(y, p)[2]
            f1 = [f1_score(y, p >= at) for at in candidates]
            assert threshold in candidates
            assert f1_score(y, p >= threshold) == pytest.approx(max(f1), abs=1e-12)
            assert threshold == max(candidates[np.array(f1) > max(f1) - 1e-12])


def test_classes_without_an_example():
    shares = np.array([[0.9, 0.2], [0.3, 0.8]])
    labels = np.array([[1, 0], [0, 0]])
    assert np.isnan(scores.average_precision(shares[:, 1], labels[:, 1]))
    found = scores.multi_label_scores(shares, labels, scores.best_thresholds(shares, labels))
    assert found["map"] == 1.0 and found["f1"] == 0.5
    assert scores.best_thresholds(shares, labels).tolist() == [0.9, 0.5]
    nothing = scores.mean_average_precision(shares, np.zeros((2, 2), np.int64))
    assert nothing == {"map": 0.0, "map_micro": 0.0}


def test_pairs_are_what_was_missed_and_what_was_said_wrongly():
    labels = np.array([[1, 0, 0], [1, 0, -1], [0, 1, 0]])
    said = np.array([[False, True, False], [False, True, True], [False, True, True]])
    assert scores.confused_pairs(said, labels).tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 0]]
