"""Distillation and binary cross-entropy against the formulas of torch, timm and DeiT."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from making import make_optimizer, make_train_step
from parity import members, peers

from jaxvision.metrics.distillation import hard_distillation, soft_distillation
from jaxvision.metrics.losses import (
    binary_cross_entropy,
    smoothing_of_all,
    softmax_cross_entropy,
)
from jaxvision.models.registry import get_spec
from jaxvision.tasks.distillation import Distillation, Teacher
from jaxvision.train.optim.optimizer import not_decayed_names
from jaxvision.train.state import TrainState

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
timm_loss = pytest.importorskip("timm.loss")
timm_mixup = pytest.importorskip("timm.data.mixup")
F = torch.nn.functional
pytestmark = pytest.mark.parity

X64 = jax.config.jax_enable_x64
DTYPE = "float64" if X64 else "float32"
# A loss is a sum of 10 terms; measured 3e-16 in float64, 4e-7 in float32.
RTOL = 1e-12 if X64 else 5e-6


def draws(seed=0, size=32, classes=10):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, 3, (2, size, classes)).astype(DTYPE)
    return student, teacher, rng.integers(0, classes, size)


def assert_same_value_and_gradient(ours, theirs, logits):
    """Compares two functions of the student's logits [B, K]: ours of arrays, theirs of tensors."""
    tensor = torch.from_numpy(logits).requires_grad_()
    expected = theirs(tensor)
    expected.backward()
    value, gradient = jax.value_and_grad(ours)(jnp.asarray(logits))
    np.testing.assert_allclose(value, expected.item(), rtol=RTOL)
    scale = tensor.grad.abs().max().item()
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=0, atol=10 * RTOL * scale)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_is_torchs_kl_div(temperature):
    student, teacher, labels = draws()
    alpha, T = 0.3, temperature

    def theirs(logits):
        kl = F.kl_div(
            F.log_softmax(logits / T, dim=1),
            F.softmax(torch.from_numpy(teacher) / T, dim=1),
            reduction="batchmean",
        )
        return (1 - alpha) * F.cross_entropy(logits, torch.from_numpy(labels)) + alpha * T**2 * kl

    def ours(logits):
        soft = soft_distillation(logits, jnp.asarray(teacher), temperature=T)
        label_losses = softmax_cross_entropy(logits, jnp.asarray(labels))
        return jnp.mean((1 - alpha) * label_losses + alpha * soft)

    assert_same_value_and_gradient(ours, theirs, student)


def deit_loss(outputs, outputs_kd, teacher, labels, *, kind, alpha, tau):
    """DistillationLoss.forward of DeiT's losses.py, with its base criterion."""
    base_loss = F.cross_entropy(outputs, labels, label_smoothing=0.1)
    if kind == "soft":
        distillation_loss = (
            F.kl_div(
                F.log_softmax(outputs_kd / tau, dim=1),
                F.log_softmax(teacher / tau, dim=1),
                reduction="sum",
                log_target=True,
            )
            * (tau * tau)
            / outputs_kd.numel()
        )
    else:
        distillation_loss = F.cross_entropy(outputs_kd, teacher.argmax(dim=1))
    return base_loss * (1 - alpha) + distillation_loss * alpha


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_deits_loss(kind):
    """Of its soft loss ours is a multiple, with the share that the docstring tells."""
    student, teacher, labels = draws()
    alpha, tau, classes = 0.4, 2.0, student.shape[1]
    factor = 1.0
    share = alpha
    if kind == "soft":
        share = alpha / (alpha + (1 - alpha) * classes)
        factor = (1 - alpha) / (1 - share)

    def ours(logits):
        taught = (
            hard_distillation(logits, jnp.asarray(teacher))
            if kind == "hard"
            else soft_distillation(logits, jnp.asarray(teacher), temperature=tau)
        )
        base = softmax_cross_entropy(logits, jnp.asarray(labels), label_smoothing=0.1)
        return factor * jnp.mean((1 - share) * base + share * taught)

    def theirs(logits):
        tensors = torch.from_numpy(teacher), torch.from_numpy(labels)
        return deit_loss(logits, logits, *tensors, kind=kind, alpha=alpha, tau=tau)

    assert_same_value_and_gradient(ours, theirs, student)


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.1}, {"target_threshold": 0.2}])
@pytest.mark.parametrize("mixed", [False, True])
def test_binary_cross_entropy_is_timms(options, mixed):
    student, _, labels = draws()
    smoothing = options.get("smoothing", 0.0)
    criterion = timm_loss.BinaryCrossEntropy(**({"smoothing": 0.0} | options))
    targets = torch.from_numpy(labels)
    if mixed:  # as timm's Mixup makes and smooths them
        share = 0.3
        torch.set_default_dtype(getattr(torch, DTYPE))  # that of the targets it makes
        try:
            targets = timm_mixup.mixup_target(targets, 10, share, smoothing)
        finally:
            torch.set_default_dtype(torch.float32)
        one_hot = np.eye(10, dtype=DTYPE)[labels]
        labels = share * one_hot + (1 - share) * one_hot[::-1]
    ours_of = {
        "label_smoothing": smoothing,
        "target_threshold": options.get("target_threshold", 0.0),
    }

    def ours(logits):
        return jnp.mean(binary_cross_entropy(logits, jnp.asarray(labels), **ours_of))

    assert_same_value_and_gradient(ours, lambda x: criterion(x, targets), student)


def test_smoothing_over_wrong_classes_is_torchs_loss_of_those_targets():
    student, _, labels = draws()
    one_hot = np.eye(10, dtype=DTYPE)[labels]
    targets = torch.from_numpy(one_hot * 0.9 + (1 - one_hot) * (0.1 / 9))

    def ours(logits):
        epsilon = smoothing_of_all(0.1, 10)
        return jnp.mean(softmax_cross_entropy(logits, jnp.asarray(labels), label_smoothing=epsilon))

    assert_same_value_and_gradient(ours, lambda x: F.cross_entropy(x, targets), student)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_step_of_deits_token(kind):
    """Student with token, teacher of another normalisation, AdamW: the same parameters."""
    peer = timm.create_model(
        "deit_tiny_distilled_patch16_224",
        num_classes=members.CLASSES,
        img_size=32,
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
    )
    pair = peers.make_pair(
        peer, "deit_ti16_distilled", source="timm", dtype=DTYPE, image_size=32, **members.SMALL
    )
    taught = peers.make_pair(
        members.timm_vit(), "vit_ti16", source="timm", dtype=DTYPE, image_size=32, **members.SMALL
    )
    images, labels = peers.batch(32, 32, size=8)
    alpha, tau, rate, decay = 0.5, 2.0, 1e-3, 0.1
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4])  # of the teacher
    imagenet = get_spec("deit_ti16_distilled").preprocess

    # Theirs: the pixels come back, and go through the teacher's own normalisation.
    peer.train().set_distilled_training(True)
    pixels = images * imagenet.std + imagenet.mean
    with torch.no_grad():
        logits = taught.peer.eval()(peers.to_torch((pixels - mean) / std, DTYPE))
    optimizer = peers.torch_optimizer(peer, "adamw", rate=rate, weight_decay=decay)
    outputs, outputs_kd = peer(peers.to_torch(images, DTYPE))
    if kind == "hard":
        expected = deit_loss(
            outputs, outputs_kd, logits, torch.from_numpy(labels), kind=kind, alpha=alpha, tau=tau
        )
    else:
        kl = F.kl_div(
            F.log_softmax(outputs_kd / tau, dim=1),
            F.log_softmax(logits / tau, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        base = F.cross_entropy(outputs, torch.from_numpy(labels), label_smoothing=0.1)
        expected = (1 - alpha) * base + alpha * tau**2 * kl
    expected.backward()
    optimizer.step()

    graphdef, params, stats = peers.split(pair.model)
    teacher_graphdef, *weights = peers.split(taught.model)
    task = Distillation(
        teacher=Teacher(
            graphdef=teacher_graphdef,
            scale=tuple(np.asarray(imagenet.std) / std),
            shift=tuple((imagenet.mean - mean) / std),
            image_size=(32, 32),
        ),
        label_smoothing=0.1,
        kind=kind,
        alpha=alpha,
        temperature=tau,
    )
    schedule = optax.constant_schedule(rate)
    tx = make_optimizer(
        params,
        name="adamw",
        schedule=schedule,
        weight_decay=decay,
        eps=peers.ADAM_EPS,
        not_decayed=not_decayed_names(pair.model),
    )
    zero = jnp.zeros((), jnp.int32)
    before = jax.tree.map(jnp.copy, params)
    fields = dict.fromkeys(field.name for field in dataclasses.fields(TrainState))
    fields |= {"params": params, "batch_stats": stats, "opt_state": tx.init(params)}
    fields |= {"step": zero, "skipped_steps": jnp.copy(zero), "skipped_in_a_row": jnp.copy(zero)}
    state = TrainState(**(fields | {"key": jax.random.key(0)}))
    step = make_train_step(graphdef, task, tx, schedule=schedule, preprocess_fn=lambda x: x)
    batch = {"image": jnp.asarray(images, DTYPE), "label": jnp.asarray(labels)}
    state, metrics = step(state, batch, tuple(weights))
    bar = peers.FLOAT64_BAR if X64 else peers.FLOAT32_BAR
    np.testing.assert_allclose(metrics["loss"], expected.item(), rtol=bar)
    theirs = {n: a for n, a in peers.arrays(peer.state_dict()).items()}
    # The first step of AdamW is the sign of the gradient: in float32 that of a gradient which is
    # zero but for rounding is anybody's, so that only the float64 run compares the parameters.
    if X64:
        peers.assert_close({"parameters": peers.worst(pair.export(state.params, {}), theirs)}, bar)
        assert peers.worst(pair.export(before, {}), theirs) > 1e-4
