import numpy as np
import PIL.Image
import pytest

from jaxvision.data import color
from jaxvision.data.transforms import (
    ColorJitter,
    Compose,
    HorizontalFlip,
    VerticalFlip,
    eval_transform,
    train_transform,
)
from jaxvision.errors import InputError


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (19, 23, 3), dtype=np.uint8)


@pytest.mark.parity
@pytest.mark.parametrize("factor", [0.0, 0.1, 0.37, 0.5, 1.0, 1.21, 1.5, 1.9])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness"])
def test_factors_equal_torchvision(image, photo, name, factor):
    from torchvision.transforms import functional

    for pixels in (image, photo(33, 20), np.zeros((5, 5, 3), np.uint8)):
        expected = getattr(functional, f"adjust_{name}")(PIL.Image.fromarray(pixels), factor)
        ours = getattr(color, f"adjust_{name}")(pixels, factor)
        np.testing.assert_array_equal(ours, np.asarray(expected))


@pytest.mark.parity
@pytest.mark.parametrize("shift", [-0.5, -0.21, -0.02, 0.0, 0.1, 0.33, 0.5])
def test_hue_is_near_torchvision(photo, shift):
    """Both round to whole hues, saturations and values, but not at the same places."""
    from torchvision.transforms import functional

    pixels = photo(64, 64)
    expected = np.asarray(functional.adjust_hue(PIL.Image.fromarray(pixels), shift)).astype(int)
    difference = np.abs(color.adjust_hue(pixels, shift) - expected)
    assert difference.mean() < 1.0 and difference.max() <= 12  # measured: 0.83 and 11


def test_flips(image):
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(HorizontalFlip(1.0)(image, rng), image[:, ::-1])
    np.testing.assert_array_equal(VerticalFlip(1.0)(image, rng), image[::-1])
    np.testing.assert_array_equal(HorizontalFlip(0.0)(image, rng), image)
    flipped = [np.any(HorizontalFlip(0.3)(image, rng) != image) for _ in range(2000)]
    assert 0.25 < np.mean(flipped) < 0.35


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


def test_no_operation_changes_its_input(image):
    original = image.copy()
    image.flags.writeable = False
    rng = np.random.default_rng(0)
    for crop in ("random_resized", "pad", "center", "none"):
        transform = train_transform(
            16,
            crop=crop,
            vertical_flip=0.5,
            color_jitter=(0.4, 0.4, 0.4, 0.1),
            rand_augment_layers=3,
            rand_augment_magnitude=20,
        )
        for _ in range(20):
            assert transform(image, rng).shape == (16, 16, 3)
    np.testing.assert_array_equal(image, original)


@pytest.mark.parametrize("size", [16, (12, 20)])
@pytest.mark.parametrize("crop", ["random_resized", "pad", "center", "none"])
def test_train_transform_gives_the_size_asked_for(photo, size, crop):
    rng = np.random.default_rng(0)
    expected = (16, 16, 3) if size == 16 else (12, 20, 3)
    for shape in ((40, 30), (8, 9), (16, 16), (12, 20)):
        result = train_transform(size, crop=crop, interpolation="bicubic")(photo(*shape), rng)
        assert result.shape == expected and result.dtype == np.uint8


def test_the_same_generator_gives_the_same_image(image):
    transform = train_transform(16, rand_augment_layers=2, color_jitter=(0.4, 0.4, 0.4, 0.1))
    a, b, c = (transform(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)


def test_plain_recipe_is_the_identity(image):
    transform = train_transform((19, 23), crop="none", horizontal_flip=0.0)
    assert len(transform.operations) == 1
    np.testing.assert_array_equal(transform(image, None), image)
    assert Compose(())(image, None) is image


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop": "middle"}, "augment.crop must be one of random_resized, pad, center, none"),
        ({"interpolation": "lanczos"}, "data.interpolation must be one of bilinear, bicubic"),
        ({"horizontal_flip": 1.5}, r"horizontal_flip is a probability in \[0, 1\]"),
        ({"color_jitter": (0.1, 0.1, 0.1, 0.6)}, "hue at most 0.5"),
        ({"rand_augment_layers": 1, "rand_augment_magnitude": 31}, "magnitude of 0..30"),
    ],
)
def test_errors_name_the_option(options, message):
    with pytest.raises(InputError, match=message):
        train_transform(16, **options)


def test_size_errors():
    with pytest.raises(InputError, match="image_size is pixels"):
        train_transform((0, 5))
    with pytest.raises(InputError, match="eval_resize is pixels"):
        eval_transform(16, eval_resize=-1)
