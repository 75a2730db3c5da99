import dataclasses

import numpy as np
import PIL.Image
import pytest
from making import train_transform

from jaxvision.data.augment import color
from jaxvision.data.augment.compose import Compose
from jaxvision.data.augment.crops import RandomResizedCrop
from jaxvision.data.augment.presets import PRESETS
from jaxvision.data.augment.transforms import eval_transform
from jaxvision.errors import InputError
from jaxvision.options.augment import POLICIES, AugmentOptions


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
            rotation=10.0,
            shift_scale_rotate=(0.1, 0.1, 10.0),
            perspective=0.3,
            grayscale=0.3,
            blur=0.3,
            noise=0.3,
            erasing=0.3,
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
        ({"interpolation": "box"}, "data.interpolation must be one of bilinear, bicubic"),
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
    for resize in (-2, 15):
        with pytest.raises(InputError, match="eval_resize is 0 or at least the 16 pixels"):
            eval_transform(16, eval_resize=resize)
    with pytest.raises(InputError, match="15 x 16 pixels does not fill an image_size of 16 x 16"):
        eval_transform(16, eval_resize=0)(np.zeros((15, 16, 3), np.uint8), None)


SINGLE = {
    "crop": "pad",
    "crop_scale": (0.5, 1.0),
    "crop_ratio": (1.0, 1.0),
    "crop_antialias": True,
    "crop_padding": 2,
    "crop_border": "reflect",
    "horizontal_flip": 0.25,
    "alternating_flip": True,
    "vertical_flip": 0.25,
    "rotation": 10.0,
    "shift_scale_rotate": (0.1, 0.1, 10.0),
    "perspective": 0.3,
    "rand_augment_layers": 1,
    "rand_augment_magnitude": 5,
    "policy": "trivial_augment",
    "color_jitter": (0.4, 0.4, 0.4, 0.0),
    "grayscale": 0.2,
    "blur": 0.2,
    "noise": 0.2,
    "erasing": 0.25,
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_preset_refuses_a_single_option(name):
    """Every one of them, with the sentence that says what to type."""
    with pytest.raises(InputError) as error:
        train_transform(16, preset="deit", **{name: SINGLE[name]})
    message = str(error.value)
    assert f"leave --config.augment.{name} at" in message and "set the preset to ''" in message
    assert message.count(". ") == 0 and "preset=deit" in message
    beside = "preset on_device stored_size repeats mixup_alpha cutmix_alpha mix_probability"
    beside += " cutmix_probability"
    fields = {field.name for field in dataclasses.fields(AugmentOptions)}
    assert set(SINGLE) == fields - set(beside.split())


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_augment(photo, preset):
    for size, expected in ((16, (16, 16, 3)), ((12, 20), (12, 20, 3))):
        transform = train_transform(size, preset=preset, interpolation="bicubic")
        image = photo(40, 30)
        original = image.copy()
        image.flags.writeable = False
        results = [transform(image, np.random.default_rng(seed)) for seed in range(30)]
        assert all(r.shape == expected and r.dtype == np.uint8 for r in results)
        assert len({r.tobytes() for r in results}) > 20
        again = transform(image, np.random.default_rng(3))
        np.testing.assert_array_equal(again, results[3])
        np.testing.assert_array_equal(image, original)
        assert transform.operations[0].interpolation == "bicubic"


def names(preset):
    return [
        type(operation).__name__ for operation in PRESETS[preset]((8, 8), "bilinear").operations
    ]


def test_presets_are_their_recipes():
    crop, flip, augment = PRESETS["recommended"]((224, 224), "bilinear").operations
    assert crop.scale == (0.8, 1.0) and flip.probability == 0.5
    assert (augment.layers, augment.magnitude) == (2, 9)
    crop, flip, upside_down, rotation, jitter, grey, blur = PRESETS["basic"](
        (224, 224), "bilinear"
    ).operations
    assert crop.scale == (0.8, 1.0) and (flip.probability, upside_down.probability) == (0.5, 0.1)
    assert rotation.degrees == 15 and grey.probability == 0.1
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.2,) * 3 + (
        0.1,
    )
    assert (blur.kernel_size, blur.sigma) == (3, (0.1, 2.0))
    crop, flip, shift, colors, noises = PRESETS["small_data"]((224, 224), "bilinear").operations
    assert (shift.shift, shift.scale, shift.degrees, shift.probability) == (0.1, 0.2, 15, 0.5)
    assert (colors.probability, noises.probability) == (0.5, 0.3)
    assert [type(o).__name__ for o in colors.operations] == [
        *("ColorJitter", "HueSaturationValue", "RandomBrightnessContrast")
    ]
    assert [type(o).__name__ for o in noises.operations] == [
        *("GaussianBlur", "GaussianNoise", "IsoNoise")
    ]
    crop, flip, augment, erasing = PRESETS["deit"]((224, 224), "bicubic").operations
    assert (augment.layers, augment.magnitude, augment.deviation) == (2, 9, 0.5)
    assert (erasing.probability, erasing.fill) == (0.25, "noise")
    assert names("torchvision_v2") == [
        *("RandomResizedCrop", "HorizontalFlip", "TrivialAugment", "RandomErasing")
    ]


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_by_name(photo, policy):
    transform = train_transform(24, crop="none", horizontal_flip=0.0, policy=policy)
    image = photo(24, 24)
    assert len(transform.operations) == 2
    results = {transform(image, np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert len(results) > 3


def test_every_single_option_adds_its_operation():
    kinds = {
        "rotation": "Rotation",
        "shift_scale_rotate": "ShiftScaleRotate",
        "perspective": "Perspective",
        "vertical_flip": "VerticalFlip",
        "rand_augment_layers": "RandAugment",
        "policy": "TrivialAugment",
        "color_jitter": "ColorJitter",
        "grayscale": "Grayscale",
        "blur": "GaussianBlur",
        "noise": "GaussianNoise",
        "erasing": "RandomErasing",
    }
    for name, kind in kinds.items():
        transform = train_transform(16, **{name: SINGLE[name]})
        added = [type(o).__name__ for o in transform.operations]
        assert added == ["RandomResizedCrop", "HorizontalFlip", kind]
    crop = train_transform(16, crop_antialias=True).operations[0]
    assert crop == RandomResizedCrop((16, 16), antialias=True)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"preset": "diet"}, "augment.preset must be one of basic, .*; did you mean 'deit'"),
        ({"policy": "autoaugment"}, "augment.policy must be one of trivial_augment, .*mean"),
        (
            {"policy": "aug_mix", "rand_augment_layers": 2},
            "policy=aug_mix takes the place of RandAugment: set --config.augment.rand_augment_lay",
        ),
        ({"erasing": 1.5}, r"config.augment.erasing is a probability in \[0, 1\], but is 1.5"),
        ({"rotation": 200.0}, r"config.augment.rotation is \(degrees \(at most 180\)\)"),
        ({"shift_scale_rotate": (0.1, 1.0, 5.0)}, r"scale \(at most 0.99\)"),
    ],
)
def test_errors_of_the_new_options(options, message):
    with pytest.raises(InputError, match=message):
        train_transform(16, **options)


def test_evaluation_keeps_the_aspect_ratio(photo):
    """A circle stays one: resizing to a square, as is often shown, would make it an ellipse."""
    image = np.zeros((60, 120, 3), np.uint8)
    y, x = np.mgrid[:60, :120]
    image[(y - 30) ** 2 + (x - 60) ** 2 < 20**2] = 255
    seen = eval_transform(40, eval_resize=48)(image, None)[..., 0] > 128
    height, width = (np.flatnonzero(seen.any(axis=a)).size for a in (1, 0))
    assert abs(height - width) <= 1 and abs(height - 32) <= 1
