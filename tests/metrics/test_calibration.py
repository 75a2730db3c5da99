"""Hand-made cases, and the closed forms that a temperature has."""

import numpy as np
import pytest

from jaxvision.metrics.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    probabilities,
    reliability,
)


def test_ece_of_a_hand_made_case():
    # Bins of a half: (0, 0.5] holds 0.5, whose ends the paper counts to the lower bin.
    confidences = np.array([0.4, 0.5, 0.6, 0.8, 1.0])
    correct = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    table = reliability(confidences, correct, num_bins=2)
    np.testing.assert_array_equal(table["count"], [2, 3])
    np.testing.assert_allclose(table["confidence"], [0.45, 0.8])
    np.testing.assert_allclose(table["accuracy"], [0.5, 2 / 3])
    expected = (2 * 0.05 + 3 * (0.8 - 2 / 3)) / 5
    assert expected_calibration_error(table) == pytest.approx(expected, abs=1e-12)


def test_fifteen_bins_empty_ones_and_the_ends():
    table = reliability(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    assert list(table["count"]) == [1] + [0] * 13 + [1]
    assert np.isnan(table["accuracy"][1:-1]).all()
    assert expected_calibration_error(table) == 0.0
    with pytest.raises(ValueError, match="in 0..1"):
        reliability(np.array([np.nan]), np.array([0.0]))


def test_two_classes_have_a_temperature_in_closed_form():
    # Margin 4 everywhere, right in 3 of 4: sigmoid(4 / T) = 3 / 4.
    logits = np.array([[4.0, 0.0]] * 4)
    labels = np.array([0, 0, 0, 1])
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(4 / np.log(3), rel=1e-9)
    shares = probabilities(logits, temperature=temperature)
    np.testing.assert_allclose(shares[:, 0], 0.75, rtol=1e-9)
    table = reliability(shares.max(-1), (shares.argmax(-1) == labels).astype(np.float64))
    assert expected_calibration_error(table) == pytest.approx(0, abs=1e-9)


def test_the_temperature_that_the_labels_were_drawn_with():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)) * 3
    shares = probabilities(logits)
    labels = (rng.random(len(logits))[:, None] > shares.cumsum(-1)).sum(-1)
    # The standard error is 1 / sqrt(examples x mean variance of a logit), below 0.01.
    assert fit_temperature(logits * 2.5, labels) == pytest.approx(2.5, abs=0.1)
    best = fit_temperature(logits, labels)
    least = negative_log_likelihood(logits, labels, temperature=best)
    for other in (0.95 * best, 1.05 * best):
        assert least < negative_log_likelihood(logits, labels, temperature=other)


def test_temperatures_at_the_ends_and_bad_logits():
    logits = np.array([[2.0, 0.0], [0.0, 3.0]])
    assert fit_temperature(logits, np.array([0, 1])) == pytest.approx(0.01)
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(100.0)
    assert fit_temperature(np.zeros((2, 2)), np.array([1, 0])) == 100.0  # any is as good
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(np.array([[np.nan, 0.0]]), np.array([0]))


def test_likelihood_of_large_logits():
    logits = np.array([[1000.0, 0.0], [0.0, 1000.0]], np.float32)
    assert negative_log_likelihood(logits, np.array([0, 0])) == pytest.approx(500.0)
