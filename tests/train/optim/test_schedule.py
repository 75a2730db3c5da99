import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from making import make_schedule, run_length

from jaxvision.errors import InputError
from jaxvision.options.schedule import SCHEDULES

# Seven printed digits and one float32 rounding.
GOLDEN_RTOL = 6e-7
RUN = run_length(2000, 6400, 64)
NO_LENGTH = {"steps": 0, "epochs": 0.0, "examples": 0, "percent": 0.0}


def rates(schedule, steps):
    return np.asarray(jax.vmap(jax.jit(schedule))(jnp.arange(steps)))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 2e-4),
        (3, 8e-4),
        (4, 1e-3),
        (5, 1e-3),
        (6, 9.997269e-4),
        (52, 5.087587e-4),
        (99, 1.273098e-06),
        (100, 1e-6),
        (1000, 1e-6),
    ],
)
def test_warmup_cosine_golden(step, expected):
    schedule = make_schedule(
        "warmup_cosine",
        learning_rate=1e-3,
        total_steps=100,
        warmup_steps=5,
        end_learning_rate=1e-6,
    )
    np.testing.assert_allclose(schedule(step), expected, rtol=GOLDEN_RTOL)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),
        (1, 0.09997533),
        (25, 0.08535549),
        (50, 0.0500005),
        (75, 0.01464551),
        (99, 2.567173e-05),
        (100, 1e-6),
    ],
)
def test_cosine_without_warmup_golden(step, expected):
    schedule = make_schedule(
        "warmup_cosine", learning_rate=0.1, total_steps=100, end_learning_rate=1e-6
    )
    np.testing.assert_allclose(schedule(step), expected, rtol=GOLDEN_RTOL)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.1), (29, 0.1), (30, 0.01), (60, 0.001), (90, 1e-4)]
)
def test_step_golden(step, expected):
    schedule = make_schedule("step", learning_rate=0.1, total_steps=100, step_steps=30)
    np.testing.assert_allclose(schedule(step), expected, rtol=GOLDEN_RTOL)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 0.01),
        (1, 0.028),
        (4, 0.082),
        (5, 0.1),
        (6, 0.09997266),
        (52, 0.0508267),
        (99, 2.733713e-05),
    ],
)
def test_cosine_after_a_warmup_from_a_tenth_golden(epoch, expected):
    schedule = make_schedule(
        "warmup_cosine",
        learning_rate=0.1,
        total_steps=100,
        warmup_steps=5,
        warmup_convention="optax",
        warmup_factor=0.1,
    )
    np.testing.assert_allclose(schedule(epoch), expected, rtol=GOLDEN_RTOL)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (250, 1.5e-5), (500, 3e-5), (5250, 1.5e-5), (9999, 3.158e-9), (10_000, 0.0)],
)
def test_linear_golden(step, expected):
    schedule = make_schedule(
        "linear",
        learning_rate=3e-5,
        total_steps=10_000,
        warmup_steps=500,
        warmup_convention="optax",
    )
    np.testing.assert_allclose(schedule(step), expected, rtol=4e-5)  # four printed digits


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.004),
        (150, 0.05225217),
        (299, 0.1),
        (300, 0.0999995),
        (649, 0.0500002),
        (999, 4e-7),
        (1000, 4e-7),
    ],
)
def test_one_cycle_golden(step, expected):
    schedule = make_schedule("one_cycle", learning_rate=0.1, total_steps=1000)
    np.testing.assert_allclose(schedule(step), expected, rtol=GOLDEN_RTOL)


def test_restarts_begin_at_the_peak():
    schedule = make_schedule(
        "cosine_restarts", learning_rate=1.0, total_steps=70, restart_steps=10, restart_factor=2
    )
    values = rates(schedule, 70)
    assert np.flatnonzero(values == 1.0).tolist() == [0, 10, 30]


def test_multi_step_drops_at_its_milestones():
    schedule = make_schedule(
        "multi_step", learning_rate=1.0, total_steps=9, milestone_steps=(2, 5), step_factor=0.5
    )
    np.testing.assert_array_equal(rates(schedule, 9), [1, 1, *[0.5] * 3, *[0.25] * 4])


def test_a_factor_of_zero_ends_the_training_at_the_milestone():
    schedule = make_schedule(
        "multi_step", learning_rate=0.5, total_steps=4, milestone_steps=(2,), step_factor=0.0
    )
    np.testing.assert_array_equal(rates(schedule, 4), [0.5, 0.5, 0.0, 0.0])


def test_cooldown_ends_at_the_floor():
    schedule = make_schedule(
        "constant", learning_rate=1.0, total_steps=8, cooldown_steps=4, end_learning_rate=0.2
    )
    np.testing.assert_allclose(rates(schedule, 10), [*[1.0] * 5, 0.8, 0.6, 0.4, 0.2, 0.2])


def length(name, **units):
    """Returns a length in updates; the schema refuses most wrong ones before this is asked."""
    options = types.SimpleNamespace(**{f"{name}_{unit}": x for unit, x in units.items()})
    return RUN.updates(options, name, group="schedule")


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, 0),
        ({"steps": 7}, 7),
        ({"epochs": 1.5}, 150),
        ({"examples": 641}, 10),
        ({"percent": 2.5}, 50),
        ({"epochs": 1e-6}, 1),
    ],
)
def test_lengths(given, steps):
    assert length("warmup", **NO_LENGTH | given) == steps


def test_a_length_that_is_several():
    none = dict.fromkeys(NO_LENGTH, ())
    assert length("milestone", **none | {"epochs": (0.5, 2)}) == (50, 200)
    assert length("milestone", **none) == ()


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), (1, -2), (1, "x")])
def test_a_length_that_is_none(value):
    with pytest.raises(InputError, match="warmup_epochs must be 0 .off. or above, got"):
        length("warmup", **NO_LENGTH | {"epochs": value})


def test_a_length_in_two_units():
    with pytest.raises(InputError, match=r"step_epochs=1.5 and step_percent=3.0; set the others"):
        length("step", **NO_LENGTH | {"epochs": 1.5, "percent": 3.0})


def test_constant_with_warmup():
    schedule = make_schedule("constant", learning_rate=0.5, total_steps=10, warmup_steps=4)
    np.testing.assert_allclose(rates(schedule, 7), [0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("warmup_steps", [0, 1, 7])
def test_optax_convention_is_optax(warmup_steps):
    ours = make_schedule(
        "warmup_cosine",
        learning_rate=1e-3,
        total_steps=60,
        warmup_steps=warmup_steps,
        warmup_convention="optax",
        end_learning_rate=1e-5,
    )
    theirs = optax.warmup_cosine_decay_schedule(0.0, 1e-3, warmup_steps, 60, 1e-5)
    # Near the end optax loses digits in 1 + cos: about 1e-3 x 6e-8.
    np.testing.assert_allclose(rates(ours, 70), rates(theirs, 70), rtol=5e-7, atol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_is_a_float32_scalar_of_a_traced_step(name):
    schedule = make_schedule(
        name,
        learning_rate=1e-3,
        total_steps=10,
        warmup_steps=0 if name == "one_cycle" else 2,
        step_steps=3,
        restart_steps=4,
        milestone_steps=(4, 6),
    )
    rate = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
    assert rate.shape == () and rate.dtype == jnp.float32
    # jit may round a product and a sum once instead of twice, and has another power
    np.testing.assert_allclose(jax.jit(schedule)(5), schedule(5), rtol=4e-7)


@pytest.mark.parametrize(
    ("lengths", "fitted"),
    [
        ({"warmup_steps": 100}, {"warmup_steps": 10}),
        ({"warmup_steps": 7, "cooldown_steps": 500}, {"warmup_steps": 7, "cooldown_steps": 10}),
        ({"warmup_steps": 99}, {"warmup_steps": 99}),  # fits
    ],
)
def test_a_warmup_longer_than_the_run_is_scaled_and_said(lengths, fitted, caplog):
    caplog.set_level(logging.INFO)
    options = dict(learning_rate=0.1, total_steps=100)
    schedule = make_schedule("warmup_cosine", **options, **lengths)
    expected = make_schedule("warmup_cosine", **options, **fitted)
    assert [schedule(step) for step in range(100)] == [expected(step) for step in range(100)]
    assert ("do not fit into a run of 100" in caplog.text) is (lengths != fitted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "warmup_cosin"}, "did you mean 'warmup_cosine'"),
        ({"name": "cosine"}, "did you mean 'warmup_cosine'"),
        ({"warmup_convention": "pytorch"}, "did you mean 'torch'"),
        ({"warmup_steps": -1}, "schedule.warmup_steps must be in 0.*got -1"),
        ({"total_steps": 0}, "of 0 steps"),
        ({"learning_rate": -0.1}, "must not be negative, got -0.1"),
        ({"end_learning_rate": 1.0}, r"in 0..0.1 \(the peak\), got 1.0"),
        ({"name": "step"}, "step_steps of at least 1"),
        ({"name": "step", "step_steps": 3, "step_factor": 0.0}, "positive step_factor"),
        ({"name": "exponential"}, "'exponential' needs step_steps of at least 1"),
        ({"name": "multi_step"}, r"rising milestones above 0, got \(\); set schedule.milestone_ep"),
        ({"name": "multi_step", "milestone_steps": (5, 5)}, r"rising milestones .* got \(5, 5\)"),
        (
            {"name": "multi_step", "milestone_steps": (0, 5)},
            r"must be 0 .off. or above, got \(0, 5\)",
        ),
        ({"name": "polynomial", "power": 0.0}, "power must be above 0, got 0.0"),
        ({"name": "cosine_restarts"}, "restart_steps and restart_factor of at least 1, got 0"),
        ({"name": "cosine_restarts", "restart_steps": 5, "restart_factor": 0}, "got 5 and 0"),
        ({"name": "one_cycle", "warmup_steps": 5}, "warms up by itself, got 5 more"),
        ({"name": "one_cycle", "one_cycle_rise": 1.0}, "an update before and after the peak"),
        ({"name": "one_cycle", "one_cycle_rise": 0.005}, "got 0.005 of 100 steps"),
        ({"name": "one_cycle", "one_cycle_anneal": "cos"}, "did you mean 'cosine'"),
        ({"cooldown_steps": -1}, "cooldown_steps must be 0 .off. or above, got -1"),
        (
            {"name": "constant", "cooldown_steps": 5, "end_learning_rate": 1.0},
            r"\(the peak\), got 1.0",
        ),
    ],
)
def test_errors(changes, message):
    options = {"name": "warmup_cosine", "learning_rate": 0.1, "total_steps": 100} | changes
    with pytest.raises(InputError, match=message):
        make_schedule(options.pop("name"), **options)
