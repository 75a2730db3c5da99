import colorsys

import numpy as np
import pytest

from jaxvision.data.augment import color
from jaxvision.data.augment.jitter import (
    ColorJitter,
    Grayscale,
    HueSaturationValue,
    RandomBrightnessContrast,
    Solarize,
    shift_hsv,
)
from jaxvision.errors import InputError


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (19, 23, 3), dtype=np.uint8)


def test_color_jitter_draws_factors_and_order(image):
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(ColorJitter()(image, rng), image)
    grey = np.full((2, 2, 3), 100, np.uint8)
    values = [ColorJitter(brightness=0.4)(grey, rng)[0, 0, 0] for _ in range(500)]
    assert 60 <= min(values) < 63 and 137 < max(values) <= 140
    clipped = [ColorJitter(brightness=3.0)(grey, rng)[0, 0, 0] for _ in range(100)]
    assert min(clipped) < 20  # factors start at 0, never below
    # The four operations do not commute, so that each order gives another image.
    jitter = ColorJitter(0.5, 0.5, 0.5, 0.2)
    orders = set()

    class Highest(np.random.Generator):
        def permutation(self, n):
            order = super().permutation(n)
            orders.add(tuple(order))
            return order

        def uniform(self, low, high):
            return high

    highest = Highest(np.random.PCG64(0))
    results = {jitter(image, highest).tobytes() for _ in range(300)}
    assert len(orders) == 24 and len(results) > 12


@pytest.mark.parametrize("shift", [-0.4, 0.0, 0.1, 0.5])
def test_hue_turns_the_circle(image, shift):
    """Against the standard library, pixel by pixel."""
    result = color.adjust_hue(image, shift)
    for pixel, ours in zip(image.reshape(-1, 3)[:60], result.reshape(-1, 3), strict=False):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        expected = np.array(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)) * 255
        assert np.abs(ours - expected).max() < 0.51


def test_shift_hsv_by_hand():
    red = np.array([[[200, 0, 0]]], np.uint8)
    np.testing.assert_array_equal(shift_hsv(red, 60.0, 0.0, 0.0), [[[0, 200, 0]]])
    np.testing.assert_array_equal(shift_hsv(red, 0.0, -255.0, 0.0), [[[200, 200, 200]]])
    np.testing.assert_array_equal(shift_hsv(red, 0.0, 0.0, 55.0), [[[255, 0, 0]]])
    np.testing.assert_array_equal(shift_hsv(red, 0.0, 0.0, 100.0), [[[255, 0, 0]]])
    np.testing.assert_array_equal(shift_hsv(red, -60.0, 0.0, 0.0), [[[0, 0, 200]]])


def test_hue_saturation_value_draws_all_three(monkeypatch, image):
    shifts = []
    monkeypatch.setattr(
        "jaxvision.data.augment.jitter.shift_hsv", lambda image, *s: shifts.append(s) or image
    )
    rng = np.random.default_rng(0)
    for _ in range(500):
        HueSaturationValue(20.0, 30.0, 10.0)(image, rng)
    limits = np.abs(shifts).max(axis=0)
    assert (limits > [19, 28.5, 9.5]).all() and (limits <= [20, 30, 10]).all()
    assert np.abs(np.mean(shifts, axis=0)).max() < 2.5


def test_brightness_contrast_is_linear(image):
    rng = np.random.default_rng(3)
    result = RandomBrightnessContrast(0.2, 0.3)(image, rng)
    draws = np.random.default_rng(3)
    contrast, brightness = draws.uniform(-0.3, 0.3), draws.uniform(-0.2, 0.2)
    expected = np.clip(image * (1 + contrast) + 255 * brightness, 0, 255)
    assert np.abs(result - expected).max() <= 0.5 and contrast != 0 and brightness != 0


def test_grayscale(image):
    rng = np.random.default_rng(0)
    grey = Grayscale(1.0)(image, rng)
    weights = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - weights).max() < 0.51 and (grey == grey[..., :1]).all()
    changed = np.mean([np.any(Grayscale(0.2)(image, rng) != image) for _ in range(1000)])
    assert 0.16 < changed < 0.24


def test_solarize_and_invert(image):
    np.testing.assert_array_equal(color.invert(image), 255 - image)
    np.testing.assert_array_equal(Solarize(0.0)(image), 255 - image)
    np.testing.assert_array_equal(Solarize(256.0)(image), image)
    np.testing.assert_array_equal(Solarize(100.0)(image)[image < 100], image[image < 100])


@pytest.mark.parametrize(
    "operation",
    [ColorJitter(0.4, 0.4, 0.4, 0.1), HueSaturationValue(), RandomBrightnessContrast()]
    + [Grayscale(1.0), Solarize()],
    ids=lambda o: type(o).__name__,
)
def test_keeps_the_input(operation, image):
    original = image.copy()
    image.flags.writeable = False
    results = [operation(image, np.random.default_rng(seed)) for seed in (0, 0)]
    np.testing.assert_array_equal(*results)
    assert results[0].shape == image.shape and np.any(results[0] != image)
    np.testing.assert_array_equal(image, original)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: HueSaturationValue(hue=181.0), r"hue \(at most 180\)"),
        (lambda: RandomBrightnessContrast(contrast=-0.1), "each at least 0"),
        (lambda: Grayscale(1.5), r"probability in \[0, 1\]"),
        (lambda: Solarize(300.0), "threshold must be in 0..256"),
    ],
)
def test_errors(make, message):
    with pytest.raises(InputError, match=message):
        make()
