import cv2
import numpy as np
import pytest

from jaxvision.data.augment.noise import (
    GaussianBlur,
    GaussianNoise,
    IsoNoise,
    RandomErasing,
    gaussian_blur,
)
from jaxvision.errors import InputError


def test_blur_spreads_a_point_as_a_gaussian():
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    for sigma in (0.7, 1.0, 1.6):
        blurred = gaussian_blur(image, sigma)[..., 0].astype(float)
        distance = np.arange(41) - 20
        row = np.exp(-(distance**2) / (2 * sigma**2))
        expected = 255 * np.outer(row, row) / row.sum() ** 2
        assert np.abs(blurred - expected).max() <= 1
    narrow = gaussian_blur(image, 5.0, kernel_size=3)
    assert np.count_nonzero(narrow[..., 0]) == 9


def test_blur_draws_its_width(monkeypatch, photo):
    sigmas = []
    monkeypatch.setattr(
        "jaxvision.data.augment.noise.gaussian_blur",
        lambda image, s, **_: sigmas.append(s) or image,
    )
    rng = np.random.default_rng(0)
    for _ in range(1000):
        GaussianBlur(sigma=(0.1, 2.0), probability=0.3)(photo(4, 4), rng)
    assert 240 < len(sigmas) < 360 and 0.1 <= min(sigmas) < 0.15 and 1.95 < max(sigmas) <= 2


def test_gaussian_noise_has_its_variance():
    grey = np.full((100, 100, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    for variance in (10.0, 50.0):
        noise = GaussianNoise((variance, variance), probability=1.0)(grey, rng).astype(float) - 128
        # Rounding to whole levels adds 1/12.
        assert abs(noise.var() - variance - 1 / 12) < 0.03 * variance and abs(noise.mean()) < 0.1
        assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.04
    spread = {round(GaussianNoise(probability=1.0)(grey, rng).std(), 1) for _ in range(30)}
    assert min(spread) >= 3.1 and max(spread) <= 7.2 and len(spread) > 10
    edges = GaussianNoise((400.0, 400.0), probability=1.0)(np.zeros_like(grey), rng)
    assert 0.45 < (edges == 0).mean() < 0.55  # cut off, not wrapped around


def test_iso_noise_brightens_and_shifts_hues(photo):
    image = photo(64, 64)
    rng = np.random.default_rng(0)
    noisy = IsoNoise((0.05, 0.05), (0.3, 0.3), probability=1.0)(image, rng)
    lightness = [cv2.cvtColor(x, cv2.COLOR_RGB2HLS)[..., 1].astype(float) for x in (image, noisy)]
    assert 2 < (lightness[1] - lightness[0]).mean() < 30
    hues = [cv2.cvtColor(x, cv2.COLOR_RGB2HLS)[..., 0].astype(float) for x in (image, noisy)]
    turned = (hues[1] - hues[0] + 90) % 180 - 90  # steps of two degrees
    assert abs(turned.mean()) < 0.5 and 1.5 < turned.std() < 6  # 0.05 * 360 * 0.3 / 2 = 2.7
    mild = IsoNoise((0.01, 0.01), (0.01, 0.01), probability=1.0)(image, rng)
    assert np.abs(mild.astype(int) - image).mean() < 2
    white = np.full((8, 8, 3), 255, np.uint8)
    np.testing.assert_array_equal(IsoNoise(probability=1.0)(white, rng), white)


@pytest.mark.parametrize("fill", ["mean", "black", "noise"])
def test_erasing_covers_one_box(fill):
    image = np.full((40, 50, 3), 255, np.uint8)
    areas, rng = [], np.random.default_rng(0)
    for _ in range(300):
        result = RandomErasing(1.0, fill=fill)(image, rng)
        covered = (result != 255).any(axis=-1)
        rows, columns = covered.any(axis=1), covered.any(axis=0)
        box = np.outer(rows, columns)
        assert covered[box].mean() > 0.98 and not covered[~box].any()
        assert np.abs(np.diff(rows.astype(int))).sum() <= 2
        areas.append(covered.mean())
        inside = result[covered]
        if fill == "mean":
            assert (inside == [124, 116, 104]).all()
        elif fill == "black":
            assert (inside == 0).all()
        else:
            assert 40 < inside.std() < 75
    assert 0.01 < min(areas) < 0.04 and 0.29 < max(areas) < 0.36


def test_erasing_leaves_the_rest_alone(rng):
    image = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    changed = [np.any(RandomErasing(0.25)(image, rng) != image) for _ in range(1000)]
    assert 0.2 < np.mean(changed) < 0.3
    tiny = image[:1, :1]
    np.testing.assert_array_equal(RandomErasing(1.0)(tiny, rng), tiny)  # no box fits


@pytest.mark.parametrize(
    "operation",
    [GaussianBlur(probability=1.0), GaussianNoise(probability=1.0), IsoNoise(probability=1.0)]
    + [RandomErasing(1.0)],
    ids=lambda o: type(o).__name__,
)
def test_keeps_size_and_input(operation, photo):
    for shape in ((24, 36), (2, 5), (1, 1)):
        image = photo(*shape)
        original = image.copy()
        image.flags.writeable = False
        a, b = (operation(image, np.random.default_rng(0)) for _ in range(2))
        np.testing.assert_array_equal(a, b)
        assert a.shape == image.shape and a.dtype == np.uint8
        np.testing.assert_array_equal(image, original)
    with pytest.raises(ValueError, match="pass numpy.random.default_rng"):
        operation(image, None)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GaussianBlur(kernel_size=4), "kernel_size is odd or 0, but is 4"),
        (lambda: GaussianBlur(sigma=(0.0, 1.0)), "GaussianBlur.sigma is"),
        (lambda: GaussianNoise(variance=(50.0, 10.0)), "GaussianNoise.variance is"),
        (lambda: IsoNoise(color_shift=(0.0, 2.0)), "both at least 0 and at most 1"),
        (lambda: RandomErasing(scale=(0.1, 1.1)), "RandomErasing.scale is"),
        (lambda: RandomErasing(fill="white"), "fill must be one of mean, black, noise"),
        (lambda: RandomErasing(probability=2.0), "probability in"),
    ],
)
def test_errors(make, message):
    with pytest.raises(InputError, match=message):
        make()
