"""Stochastic weight averaging against torch.optim.swa_utils."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from making import make_schedule
from parity import members, peers

from jaxvision.tasks.classification import Classification
from jaxvision.train.input import TrainInput
from jaxvision.train.optim.weight_average import Swa, swa_schedule
from jaxvision.train.recalibrate import make_statistics_step, recalibrate

torch = pytest.importorskip("torch")
from torch.optim import lr_scheduler, swa_utils  # noqa: E402

pytestmark = pytest.mark.parity
DOUBLE = jax.config.jax_enable_x64
DTYPE = "float64" if DOUBLE else "float32"
# torch's SWALR computes each rate from the one before, up to 30 times.
RTOL = 1e-11 if DOUBLE else 2e-6


@pytest.mark.parametrize("curve", ["cosine", "linear"])
@pytest.mark.parametrize("anneal_steps", [0, 1, 10])
def test_rates_are_those_of_swalr(curve, anneal_steps):
    start, steps = 20, 50
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    before = lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rates, after = [], None
    for step in range(steps):
        if step == start:
            after = swa_utils.SWALR(
                optimizer,
                0.03,
                anneal_epochs=anneal_steps,
                anneal_strategy=curve[:3].replace("lin", "linear"),
            )
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        (after or before).step()
    schedule = swa_schedule(
        make_schedule("warmup_cosine", learning_rate=0.1, total_steps=steps),
        start=start,
        learning_rate=0.03,
        anneal_steps=anneal_steps,
        curve=curve,
    )
    ours = np.asarray(jax.vmap(jax.jit(schedule))(jnp.arange(steps)))
    np.testing.assert_allclose(ours, rates, rtol=RTOL)
    assert ours[start + anneal_steps] == pytest.approx(0.03) != ours[start - 1]


def test_average_is_that_of_averaged_model():
    rng = np.random.default_rng(0)
    module = torch.nn.Linear(5, 3, dtype=getattr(torch, DTYPE))
    averaged = swa_utils.AveragedModel(module)
    swa, ours = Swa(start=3, every=4), jnp.zeros((3, 5), DTYPE)
    decay = jax.jit(swa.decay)
    for updates in range(1, 30):
        new = rng.standard_normal((3, 5)).astype(DTYPE)
        module.weight.data.copy_(torch.from_numpy(new))
        if updates >= 3 and (updates - 3) % 4 == 0:
            averaged.update_parameters(module)
        share = decay(updates).astype(DTYPE)
        ours = ours * share + new * (1 - share)
        if updates >= 3:
            theirs = averaged.module.weight.detach().numpy()
            np.testing.assert_allclose(ours, theirs, atol=1e-15 if DOUBLE else 2e-7, rtol=0)


def test_statistics_are_those_of_update_bn():
    pair = peers.make_pair(
        members.torchvision_resnet(),
        "resnet18",
        source="torchvision",
        dtype=DTYPE,
        **members.SHALLOW,
    )
    batches = [peers.batch(24, 32, size=size, seed=size) for size in (4, 4, 6)]
    swa_utils.update_bn([peers.to_torch(images, DTYPE) for images, _ in batches], pair.peer)
    assert pair.peer.bn1.momentum == 0.1 and int(pair.peer.bn1.num_batches_tracked) == 3

    graphdef, params, batch_stats = peers.split(pair.model)
    step = make_statistics_step(
        graphdef, Classification(), prepare=TrainInput(lambda images: images), seed=0
    )
    ours = [
        {"image": jnp.asarray(images, DTYPE), "label": jnp.asarray(labels)}
        for images, labels in batches
    ]
    found = recalibrate(step, params, batch_stats, ours)
    exported = pair.export(params, found)
    theirs = {k: v.numpy() for k, v in pair.peer.state_dict().items() if "running_" in k}
    distances = {name: peers.distance(exported[name], value) for name, value in theirs.items()}
    assert len(distances) == 2 * len([m for m in pair.peer.modules() if hasattr(m, "running_mean")])
    peers.assert_close(distances, 1e-12 if DOUBLE else 1e-5)
    forgotten = recalibrate(step, params, jax.tree.map(jnp.zeros_like, batch_stats), ours)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(forgotten), strict=True):
        np.testing.assert_array_equal(a, b)
    assert recalibrate(step, params, {}, ours) == {}
