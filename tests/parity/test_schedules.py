"""Every schedule over a whole run against torch.optim.lr_scheduler."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from making import make_schedule

torch = pytest.importorskip("torch")
from torch.optim import lr_scheduler as torch_lr  # noqa: E402

pytestmark = pytest.mark.parity

PEAK, STEPS = 0.1, 200
# Ours in float32 is a few roundings of 6e-8, measured 2.2e-6. In float64 (make parity) it is torch
# that rounds: its schedulers multiply the last rate again and again, up to 200 times.
RTOL = 1e-11 if jax.config.jax_enable_x64 else 3e-6
# A factor of 0.97 is 3e-8 off in float32, its 200th power 6e-6.
POWER_RTOL = 1e-11 if jax.config.jax_enable_x64 else 1e-5


def theirs(make_scheduler, steps=STEPS):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        scheduler = make_scheduler(optimizer)
        for step in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if step < steps - 1:
                scheduler.step()
    return np.asarray(rates)


def assert_same(ours, make_scheduler, steps=STEPS, rtol=RTOL):
    rates = np.asarray(jax.vmap(jax.jit(ours))(jnp.arange(steps)))
    expected = theirs(make_scheduler, steps)
    assert len(np.unique(expected)) > 1
    # The absolute part is for rates that torch computes as a difference of larger ones.
    np.testing.assert_allclose(rates, expected, rtol=rtol, atol=1e-16)


def ours(name, **options):
    return make_schedule(name, **({"learning_rate": PEAK, "total_steps": STEPS} | options))


# From the end of the warmup on: name, our options, torch's scheduler of the steps that are left.
FROM_WARMUP = {
    "cosine": (
        "warmup_cosine",
        {"end_learning_rate": 1e-4},
        lambda o, n: torch_lr.CosineAnnealingLR(o, n, eta_min=1e-4),
    ),
    "restarts": (
        "cosine_restarts",
        {"end_learning_rate": 1e-4, "restart_steps": 30},
        lambda o, n: torch_lr.CosineAnnealingWarmRestarts(o, 30, 1, eta_min=1e-4),
    ),
    "longer restarts": (
        "cosine_restarts",
        {"restart_steps": 10, "restart_factor": 2},
        lambda o, n: torch_lr.CosineAnnealingWarmRestarts(o, 10, 2),
    ),
    "three times longer": (
        "cosine_restarts",
        {"restart_steps": 7, "restart_factor": 3},
        lambda o, n: torch_lr.CosineAnnealingWarmRestarts(o, 7, 3),
    ),
    "linear": ("linear", {}, lambda o, n: torch_lr.LinearLR(o, 1.0, 0.0, n)),
    "linear to a tenth": (
        "linear",
        {"end_learning_rate": 0.01},
        lambda o, n: torch_lr.LinearLR(o, 1.0, 0.1, n),
    ),
    "polynomial": ("polynomial", {"power": 2.0}, lambda o, n: torch_lr.PolynomialLR(o, n, 2.0)),
    "root": ("polynomial", {"power": 0.5}, lambda o, n: torch_lr.PolynomialLR(o, n, 0.5)),
}
# Counted from step 0.
FROM_START = {
    "step": ("step", {"step_steps": 33}, lambda o: torch_lr.StepLR(o, 33, gamma=0.1)),
    "many steps": (
        "step",
        {"step_steps": 10, "step_factor": 0.97},
        lambda o: torch_lr.StepLR(o, 10, gamma=0.97),
    ),
    "milestones": (
        "multi_step",
        {"milestone_steps": (60, 120, 160), "step_factor": 0.2},
        lambda o: torch_lr.MultiStepLR(o, [60, 120, 160], gamma=0.2),
    ),
    "exponential": (
        "exponential",
        {"step_steps": 1, "step_factor": 0.97},
        lambda o: torch_lr.ExponentialLR(o, 0.97),
    ),
    "slow exponential": (
        "exponential",
        {"step_steps": 50, "step_factor": 0.5},
        lambda o: torch_lr.ExponentialLR(o, 0.5 ** (1 / 50)),
    ),
}
# Updates, convention, share of the peak that it starts from: torch's LinearLR of the same.
WARMUPS = {
    "torch": (20, "torch", 0.0, lambda o: torch_lr.LinearLR(o, 1 / 20, 1.0, 19)),
    "torch, two": (2, "torch", 0.0, lambda o: torch_lr.LinearLR(o, 1 / 2, 1.0, 1)),
    "from a tenth": (20, "optax", 0.1, lambda o: torch_lr.LinearLR(o, 0.1, 1.0, 20)),
}


def warmup_options(warmup):
    steps, convention, factor, linear = WARMUPS[warmup]
    return linear, {
        "warmup_steps": steps,
        "warmup_convention": convention,
        "warmup_factor": factor,
    }


@pytest.mark.parametrize("case", FROM_WARMUP)
def test_alone(case):
    name, options, scheduler = FROM_WARMUP[case]
    assert_same(ours(name, **options), lambda o: scheduler(o, STEPS))


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("case", FROM_WARMUP)
def test_after_a_warmup(warmup, case):
    name, options, scheduler = FROM_WARMUP[case]
    linear, warmup = warmup_options(warmup)
    steps = warmup["warmup_steps"]
    assert_same(
        ours(name, **options, **warmup),
        lambda o: torch_lr.SequentialLR(o, [linear(o), scheduler(o, STEPS - steps)], [steps]),
    )


@pytest.mark.parametrize("case", FROM_START)
def test_drops(case):
    name, options, scheduler = FROM_START[case]
    assert_same(ours(name, **options), scheduler, rtol=POWER_RTOL)


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("case", FROM_START)
def test_drops_under_a_warmup(warmup, case):
    name, options, scheduler = FROM_START[case]
    linear, warmup = warmup_options(warmup)
    assert_same(
        ours(name, **options, **warmup),
        lambda o: torch_lr.ChainedScheduler([linear(o), scheduler(o)]),
        rtol=POWER_RTOL,
    )


@pytest.mark.parametrize("warmup", WARMUPS)
def test_constant_after_a_warmup(warmup):
    linear, options = warmup_options(warmup)
    assert_same(ours("constant", **options), linear)


@pytest.mark.parametrize("steps", [40, 200, 1000])
@pytest.mark.parametrize("rise", [0.3, 0.137])
@pytest.mark.parametrize("anneal", ["cosine", "linear"])
def test_one_cycle(anneal, rise, steps):
    assert_same(
        ours(
            "one_cycle",
            total_steps=steps,
            one_cycle_rise=rise,
            one_cycle_anneal=anneal,
            one_cycle_start_factor=1 / 20,
            one_cycle_end_factor=1 / 300,
        ),
        lambda o: torch_lr.OneCycleLR(
            o,
            PEAK,
            total_steps=steps,
            pct_start=rise,
            anneal_strategy={"cosine": "cos", "linear": "linear"}[anneal],
            div_factor=20,
            final_div_factor=300,
        ),
        steps,
    )


def test_cooldown_of_a_constant_rate():
    assert_same(
        ours("constant", cooldown_steps=50, end_learning_rate=0.02),
        lambda o: torch_lr.SequentialLR(
            o,
            [torch_lr.ConstantLR(o, 1.0, 1), torch_lr.LinearLR(o, 1.0, 0.2, 50)],
            [STEPS - 50],
        ),
    )


def test_cooldown_of_a_cosine_stays_at_its_end():
    def scheduler(optimizer):
        return torch_lr.SequentialLR(
            optimizer,
            [
                torch_lr.CosineAnnealingLR(optimizer, 150, eta_min=1e-3),
                torch_lr.ConstantLR(optimizer, 1e-2, 1000),
            ],
            [150],
        )

    assert_same(ours("warmup_cosine", cooldown_steps=50, end_learning_rate=1e-3), scheduler)


def test_warmup_steps_and_cooldown():
    def scheduler(optimizer):
        return torch_lr.ChainedScheduler(
            [
                torch_lr.LinearLR(optimizer, 1 / 10, 1.0, 9),
                torch_lr.MultiStepLR(optimizer, [50, 100], gamma=0.1),
            ]
        )

    schedule = ours("multi_step", milestone_steps=(50, 100), warmup_steps=10, cooldown_steps=40)
    assert_same(schedule, scheduler, 160)
    last = np.asarray(jax.vmap(schedule)(jnp.arange(160, 201)))
    np.testing.assert_allclose(last, np.linspace(PEAK / 100, 0, 41), rtol=RTOL, atol=1e-10)
