import numpy as np
import PIL.Image
import pytest

from jaxvision.data.policies import (
    _SIGNED,
    OPERATIONS,
    RandAugment,
    apply_operation,
    operation_strength,
)

TORCH_NAMES = {
    "identity": "Identity",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}


@pytest.mark.parity
@pytest.mark.parametrize("size", [(32, 32), (224, 224), (97, 331), (48, 384)])
def test_operations_and_strengths_are_torchvisions(size):
    from torchvision.transforms import autoaugment

    space = autoaugment.RandAugment()._augmentation_space(31, size)
    assert [TORCH_NAMES[name] for name in OPERATIONS] == list(space)
    for name in OPERATIONS:
        values, signed = space[TORCH_NAMES[name]]
        assert (name in _SIGNED) == signed
        for magnitude in range(31):
            expected = float(values[magnitude]) if values.ndim else 0.0
            ours = operation_strength(name, magnitude, *size)
            # torch counts in float32; translations are cut to whole pixels, and agree there.
            assert ours == pytest.approx(expected, rel=1e-6), (name, magnitude)
            if name.startswith("translate"):
                assert int(ours) == int(expected)
            if name in ("posterize", "solarize"):
                assert ours == expected


@pytest.mark.parity
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_pixels_are_torchvisions(rng, photo, name, interpolation):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    images = [
        photo(48, 31),
        rng.integers(0, 256, (29, 40, 3), dtype=np.uint8),
        rng.integers(90, 140, (20, 20, 3), dtype=np.uint8),
        np.full((8, 8, 3), 77, np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ]
    for image in images:
        for magnitude in (0, 1, 4, 9, 13, 17, 22, 30):
            for sign in (1, -1) if name in _SIGNED else (1,):
                strength = sign * operation_strength(name, magnitude, *image.shape[:2])
                expected = _apply_op(
                    PIL.Image.fromarray(image),
                    TORCH_NAMES[name],
                    strength,
                    interpolation=InterpolationMode(interpolation),
                    fill=None,
                )
                ours = apply_operation(image, name, strength, interpolation=interpolation)
                np.testing.assert_array_equal(ours, np.asarray(expected), f"{magnitude} {sign}")


def test_every_operation_is_drawn_and_signs_are_even(monkeypatch, photo):
    drawn = []
    monkeypatch.setattr(
        "jaxvision.data.policies.apply_operation",
        lambda image, name, strength, interpolation: drawn.append((name, strength)) or image,
    )
    rng = np.random.default_rng(0)
    augment = RandAugment(layers=2, magnitude=9)
    for _ in range(1400):
        augment(photo(8, 8), rng)
    counts = {name: sum(n == name for n, _ in drawn) for name in OPERATIONS}
    assert len(drawn) == 2800 and min(counts.values()) > 150 and max(counts.values()) < 250
    for name in _SIGNED:
        signs = [s > 0 for n, s in drawn if n == name]
        assert 0.35 < np.mean(signs) < 0.65


def test_identity_at_strength_zero(photo):
    image = photo(20, 20)
    for name in sorted(_SIGNED):
        np.testing.assert_array_equal(apply_operation(image, name, 0.0), image)


@pytest.mark.parametrize("options", [{"magnitude": 31}, {"magnitude": -1}, {"layers": 0}])
def test_errors(options):
    with pytest.raises(ValueError, match="at least 1 layer and a magnitude of 0..30"):
        RandAugment(**options)
