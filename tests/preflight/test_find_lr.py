"""The range test against fastai's arithmetic, a known curvature, and a real run."""

import json
import logging

import jax
import numpy as np
import pytest
from opening import find_lr

from configs import smoke
from jaxvision.errors import InputError
from jaxvision.preflight.find_lr import range_test, rising_rate, suggestion


def config(**options):
    config = smoke.get_config()
    config.find_lr.num_steps = 30
    with config.unlocked():
        config.update_from_flattened_dict(options)
    return config


def test_rates_rise_exponentially():
    schedule = rising_rate(1e-7, 10.0, 100)
    rates = np.asarray(jax.jit(jax.vmap(schedule))(np.arange(100)))
    np.testing.assert_allclose(rates, np.geomspace(1e-7, 10.0, 100), rtol=3e-6)


def test_numbers_are_those_of_the_definition():
    rates = np.geomspace(1e-7, 10.0, 100)
    rng = np.random.default_rng(0)
    losses = 2.3 - 1.5 / (1 + (3e-3 / rates)) + (rates / 0.3) ** 2 + rng.normal(0, 0.02, 100)
    taken = []
    steps = zip(rates, losses, strict=True)
    result = range_test((taken.append(step) or step for step in steps), num_steps=100)

    average, expected = 0.0, []  # the loop of fastai's Recorder and ParamScheduler
    for i, loss in enumerate(losses):
        average = 0.98 * average + 0.02 * loss
        expected.append(average / (1 - 0.98 ** (i + 1)))
        if i and expected[-1] > 4 * min(expected):
            break
    assert result.diverged and len(expected) == len(taken) < 100
    np.testing.assert_allclose(result.smoothed, expected, rtol=1e-12)
    kept, curve = rates[10 : len(expected) - 5], np.asarray(expected[10:-5])
    slopes = (curve[1:] - curve[:-1]) / (np.log(kept[1:]) - np.log(kept[:-1]))
    assert result.steepest == kept[slopes.argmin()]
    assert result.minimum == kept[curve.argmin()] / 10


@pytest.mark.parametrize("curvature", [0.5, 20.0, 300.0])
def test_quadratic_diverges_where_its_curvature_says(curvature):
    """Gradient descent on a quadratic is stable below the rate 2 / (largest curvature)."""
    curvatures = curvature * np.geomspace(1e-3, 1.0, 50)
    x = np.ones(50)
    rng = np.random.default_rng(0)

    def steps(num_steps):
        nonlocal x
        for rate in np.geomspace(1e-7, 1e3, num_steps):
            yield rate, 0.5 * np.sum(curvatures * x**2)
            x = x - rate * curvatures * (x + rng.normal(0, 0.1, 50))  # as batches are noisy

    result = range_test(steps(1000), num_steps=1000, smoothing=0.5)
    assert result.diverged
    assert 2 / curvature / 2 < result.rates[-1] < 2 * 2 / curvature
    assert result.minimum < result.steepest * 10 < 10 * 2 / curvature


@pytest.mark.parametrize("losses", [[1.0, 1.0, np.nan], [1.0, 1.0, 50.0], [np.nan]])
def test_divergence_at_once_says_what_to_type(losses):
    steps = ((1e-3, x) for x in losses)
    with pytest.raises(InputError, match=rf"step {len(losses)} of 100.*start_rate"):
        range_test(steps, num_steps=100, smoothing=0.5)


def test_a_fall_within_the_noise_suggests_nothing():
    rng = np.random.default_rng(0)
    rates = np.geomspace(1e-7, 10.0, 100)
    flat = rng.normal(2.3, 0.1, 100)
    result = range_test(zip(rates, flat, strict=True), num_steps=100)
    assert "within its noise" in suggestion(result) and "num_steps" in suggestion(result)
    np.testing.assert_allclose(result.noise, 0.1, rtol=0.3)
    falling = flat - 1.5 / (1 + (3e-3 / rates))
    result = range_test(zip(rates, falling, strict=True), num_steps=100)
    assert f"--config.optimizer.learning_rate={result.steepest:.2g} " in suggestion(result)


def test_a_run_is_not_touched_and_one_program_is_enough(tmp_path, caplog):
    with caplog.at_level(logging.INFO), jax.log_compiles():
        result = find_lr(config(), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lr_finder.json", "lr_finder.png"]
    assert sum("Compiling jit(train_step)" in m for m in caplog.messages) == 1
    assert suggestion(result) in caplog.text
    content = json.loads((tmp_path / "lr_finder.json").read_text())
    rates = np.geomspace(1e-7, 10, 30)[: len(result.rates)]
    np.testing.assert_allclose(content["rates"], rates, rtol=3e-6)
    assert content["steepest"] == result.steepest and result.steepest in content["rates"]


def test_rates_in_the_wrong_order_are_refused_at_once(tmp_path):
    with pytest.raises(InputError, match="below --config.find_lr.end_rate, got 1.0 and 0.5"):
        find_lr(config(**{"find_lr.start_rate": 1.0, "find_lr.end_rate": 0.5}), tmp_path / "x")
    assert not (tmp_path / "x").exists()
