import cv2
import numpy as np
import pytest

from jaxvision.data.augment.geometry import (
    Affine,
    HorizontalFlip,
    Perspective,
    Rotation,
    ShiftScaleRotate,
    VerticalFlip,
    affine,
    inverse_affine_matrix,
    perspective,
)
from jaxvision.errors import InputError

EVERY = [
    Rotation(30.0),
    Affine(10.0, translate=(0.2, 0.1), scale=(0.7, 1.3), shear=(10.0, 5.0)),
    ShiftScaleRotate(probability=1.0),
    Perspective(probability=1.0),
]


def test_flips(rng):
    image = rng.integers(0, 256, (19, 23, 3), dtype=np.uint8)
    np.testing.assert_array_equal(HorizontalFlip(1.0)(image, rng), image[:, ::-1])
    np.testing.assert_array_equal(VerticalFlip(1.0)(image, rng), image[::-1])
    np.testing.assert_array_equal(HorizontalFlip(0.0)(image, rng), image)
    flipped = [np.any(HorizontalFlip(0.3)(image, rng) != image) for _ in range(2000)]
    assert 0.25 < np.mean(flipped) < 0.35


def test_quarter_turns_are_exact(rng):
    image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for turns in range(1, 4):
        turned = affine(image, degrees=90.0 * turns)
        np.testing.assert_array_equal(turned, np.rot90(image, turns))  # counter-clockwise


def test_shifts_and_scales_by_hand(rng):
    image = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    moved = affine(image, translate=(3.0, -2.0))
    np.testing.assert_array_equal(moved[:10, 3:], image[2:, :13])
    assert (moved[:, :3] == 0).all() and (moved[10:] == 0).all()
    # Twice as large: a pixel of the middle covers two by two.
    large = affine(image, scale=2.0, interpolation="nearest")
    np.testing.assert_array_equal(large, cv2.resize(image[3:9, 4:12], (16, 12), None, 0, 0, 0))


def test_reflection_leaves_no_black_corner():
    white = np.full((20, 30, 3), 255, np.uint8)
    assert (affine(white, degrees=30.0) == 0).any()
    assert (affine(white, degrees=30.0, border="reflect") == 255).all()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert (ShiftScaleRotate(0.2, 0.3, 45.0, probability=1.0)(white, rng) == 255).all()


def test_perspective_moves_the_corners(rng):
    image = np.zeros((40, 60, 3), np.uint8)
    for color, (y, x) in enumerate(((0, 0), (0, 57), (37, 57), (37, 0))):
        image[y : y + 3, x : x + 3] = 60 * (color + 1)
    corners = np.array([[10, 8], [50, 5], [55, 30], [4, 35]])
    seen = perspective(image, corners, interpolation="nearest")
    for color, (x, y) in enumerate(corners):
        assert seen[y, x, 0] == 60 * (color + 1)
    own = np.array([[0, 0], [59, 0], [59, 39], [0, 39]])
    np.testing.assert_array_equal(perspective(image, own), image)


def test_draws_cover_their_ranges():
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 15] = 255  # five pixels to the right of the centre
    rng = np.random.default_rng(0)
    angles = []
    for _ in range(500):
        y, x = np.unravel_index(Rotation(20.0, "nearest")(image, rng)[..., 0].argmax(), (21, 21))
        angles.append(np.degrees(np.arctan2(10 - y, x - 10)))
    assert -24 < min(angles) < -15 and 15 < max(angles) < 24
    for _ in range(50):
        corners = Perspective(0.5).draw(40, 60, rng)
        assert (corners[:, 0] < 60).all() and (corners[:, 1] < 40).all() and (corners >= 0).all()
    drawn = np.array([Perspective(0.5).draw(40, 60, rng) for _ in range(500)])
    np.testing.assert_array_equal(drawn[:, 0].max(axis=0), [15, 10])
    np.testing.assert_array_equal(drawn[:, 2].min(axis=0), [44, 29])


def test_affine_draws_what_it_says(monkeypatch, photo):
    calls = []
    monkeypatch.setattr(
        "jaxvision.data.augment.geometry.affine", lambda image, **o: calls.append(o) or image
    )
    rng = np.random.default_rng(0)
    image = photo(40, 60)
    operation = Affine(10.0, translate=(0.2, 0.1), scale=(0.7, 1.3), shear=(8.0, 4.0))
    for _ in range(500):
        operation(image, rng)
    for name, low, high in (
        ("degrees", [-10], [10]),
        ("translate", [-12, -4], [12, 4]),
        ("scale", [0.7], [1.3]),
        ("shear", [-8, -4], [8, 4]),
    ):
        values = np.array([np.atleast_1d(call[name]) for call in calls])
        width = np.subtract(high, low)
        assert (values.min(axis=0) >= low).all() and (values.max(axis=0) <= high).all()
        assert (values.max(axis=0) - values.min(axis=0) > 0.95 * width).all()
    assert all(float(x).is_integer() for call in calls for x in call["translate"])
    calls.clear()
    for _ in range(1000):
        ShiftScaleRotate(0.1, 0.2, 15.0, probability=0.5)(image, rng)
    assert 430 < len(calls) < 570
    shifts = np.array([call["translate"] for call in calls]) / (60, 40)
    assert 0.09 < np.abs(shifts).max() <= 0.1
    assert 0.78 < min(c["scale"] for c in calls) < 0.83 < 1.17 < max(c["scale"] for c in calls)
    assert 14 < max(abs(call["degrees"]) for call in calls) <= 15


@pytest.mark.parity
def test_matrix_is_torchvisions():
    from torchvision.transforms.functional import _get_inverse_affine_matrix

    for degrees, translate, scale, shear in (
        (17.0, (5.0, -7.0), 1.1, (8.0, -3.0)),
        (-130.0, (0.0, 2.5), 0.4, (0.0, 30.0)),
    ):
        expected = _get_inverse_affine_matrix(
            [12.0, 7.5], -degrees, list(translate), scale, list(shear)
        )
        ours = inverse_affine_matrix(
            (12.0, 7.5), degrees=degrees, translate=translate, scale=scale, shear=shear
        )
        np.testing.assert_allclose(ours.ravel(), expected, atol=1e-12)


@pytest.mark.parametrize("operation", EVERY, ids=lambda o: type(o).__name__)
def test_keeps_size_and_input(operation, photo):
    for shape in ((24, 36), (1, 1), (2, 5)):
        image = photo(*shape)
        original = image.copy()
        image.flags.writeable = False
        for seed in range(5):
            result = operation(image, np.random.default_rng(seed))
            assert result.shape == image.shape and result.dtype == np.uint8
            again = operation(image, np.random.default_rng(seed))
            np.testing.assert_array_equal(result, again)
        np.testing.assert_array_equal(image, original)
    with pytest.raises(ValueError, match="pass numpy.random.default_rng"):
        operation(image, None)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Rotation(181.0), r"Rotation.degrees is \(degrees \(at most 180\)\)"),
        (lambda: Rotation(5.0, "cubic"), "Rotation.interpolation must be one of nearest, bilinear"),
        (lambda: Rotation(5.0, border="grey"), "Rotation.border must be one of black, reflect"),
        (lambda: Affine(translate=(0.1, 2.0)), "Affine.translate is"),
        (lambda: Affine(scale=(0.0, 1.0)), "Affine.scale is"),
        (lambda: Affine(shear=(90.0, 0.0)), "Affine.shear is"),
        (lambda: ShiftScaleRotate(scale=1.0), "ShiftScaleRotate is"),
        (lambda: ShiftScaleRotate(probability=-0.1), "probability in"),
        (lambda: Perspective(distortion=1.1), "Perspective.distortion is a probability in"),
    ],
)
def test_errors(make, message):
    with pytest.raises(InputError, match=message):
        make()
