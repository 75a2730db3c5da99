import zlib

import numpy as np
import PIL.Image
import pytest

from jaxvision.data.augment.auto_augment import POLICIES, AutoAugment
from jaxvision.data.augment.operations import (
    OPERATIONS,
    RAND_SPACE,
    SIGNED,
    WIDE_SPACE,
    apply_operation,
)
from jaxvision.data.augment.policies import AugMix, RandAugment, TrivialAugment, three_augment
from jaxvision.data.augment.timm_rand_augment import (
    TIMM_OPERATIONS,
    TIMM_SIGNED,
    TimmRandAugment,
    apply_timm_operation,
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
TIMM_NAMES = {
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}


@pytest.fixture
def drawn(monkeypatch):
    """The list of (name, strength) that policies draw; nothing is done to the images."""
    calls = []

    def record(image, name, strength, **options):
        calls.append((name, strength))
        return image

    monkeypatch.setattr("jaxvision.data.augment.operations.apply_operation", record)
    monkeypatch.setattr("jaxvision.data.augment.timm_rand_augment.apply_timm_operation", record)
    return calls


@pytest.mark.parity
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("name", TORCH_NAMES)
def test_pixels_are_torchvisions(rng, photo, name, interpolation):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    images = [
        photo(48, 31),
        rng.integers(0, 256, (29, 40, 3), dtype=np.uint8),
        rng.integers(90, 140, (20, 20, 3), dtype=np.uint8),
        np.full((8, 8, 3), 77, np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        photo(1, 1),
    ]
    for image in images:
        for magnitude in (0, 1, 4, 9, 13, 17, 22, 30):
            for sign in (1, -1) if name in SIGNED else (1,):
                strength = sign * RAND_SPACE.strength(name, magnitude, *image.shape[:2])
                expected = _apply_op(
                    PIL.Image.fromarray(image),
                    TORCH_NAMES[name],
                    strength,
                    interpolation=InterpolationMode(interpolation),
                    fill=None,
                )
                ours = apply_operation(image, name, strength, interpolation=interpolation)
                np.testing.assert_array_equal(ours, np.asarray(expected), f"{magnitude} {sign}")


def test_every_operation_is_drawn_and_signs_are_even(drawn, photo):
    rng = np.random.default_rng(0)
    augment = RandAugment(layers=2, magnitude=9)
    for _ in range(1400):
        augment(photo(8, 8), rng)
    counts = {name: sum(n == name for n, _ in drawn) for name in TORCH_NAMES}
    assert len(drawn) == 2800 and min(counts.values()) > 150 and max(counts.values()) < 250
    for name in SIGNED:
        signs = [s > 0 for n, s in drawn if n == name]
        assert 0.35 < np.mean(signs) < 0.65


def test_identity_at_strength_zero(photo):
    image = photo(20, 20)
    for name in sorted(SIGNED):
        np.testing.assert_array_equal(apply_operation(image, name, 0.0), image)


@pytest.mark.parametrize("options", [{"magnitude": 31}, {"magnitude": -1}, {"layers": 0}])
def test_errors(options):
    with pytest.raises(ValueError, match="at least 1 layer and a magnitude of 0..30"):
        RandAugment(**options)


def test_trivial_augment_draws_one_operation_of_any_strength(drawn, photo):
    rng = np.random.default_rng(0)
    augment = TrivialAugment()
    for _ in range(2800):
        augment(photo(8, 8), rng)
    counts = {name: sum(n == name for n, _ in drawn) for name in TORCH_NAMES}
    assert len(drawn) == 2800 and min(counts.values()) > 150 and max(counts.values()) < 250
    angles = {s for n, s in drawn if n == "rotate"}
    assert min(angles) == -135.0 and max(angles) == 135.0 and len(angles) > 40
    bits = {s for n, s in drawn if n == "posterize"}
    assert bits == {float(n) for n in range(2, 9)}
    assert WIDE_SPACE.strength("translate_x", 30, 224, 224) == 32.0  # pixels, whatever the size


def test_auto_augment_draws_pairs_with_their_probabilities(drawn, photo, monkeypatch):
    monkeypatch.setitem(POLICIES, "svhn", ((("rotate", 0.25, 9), ("invert", 1.0, 0)),))
    rng = np.random.default_rng(0)
    for _ in range(1000):
        AutoAugment("svhn")(photo(8, 8), rng)
    angles = [s for n, s in drawn if n == "rotate"]
    assert sum(n == "invert" for n, _ in drawn) == 1000 and 200 < len(angles) < 300
    assert set(np.abs(angles)) == {30.0} and 0.35 < np.mean(np.array(angles) > 0) < 0.65


@pytest.mark.parametrize(
    ("policy", "chosen", "following"),
    [
        (RandAugment(2, 9), 1032558186, 3648404685),
        (TrivialAugment(), 4196801750, 4161572879),
        (AutoAugment("imagenet"), 685144957, 2361669292),
        (AugMix(), 1243854552, 66032170),
    ],
    ids=lambda value: type(value).__name__,
)
def test_runs_that_go_on_draw_as_they_did(drawn, policy, chosen, following):
    """Names and strengths of 50 images, and the number that is drawn after them."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        policy(np.zeros((20, 24, 3), np.uint8), rng)
    rounded = [(name, round(strength, 4)) for name, strength in drawn]
    assert zlib.crc32(repr(rounded).encode()) == chosen
    assert rng.integers(2**32) == following


@pytest.mark.parametrize("policy", POLICIES)
def test_auto_augment_uses_every_pair(policy, photo):
    assert len(POLICIES[policy]) == 25
    image, rng = photo(24, 24), np.random.default_rng(0)
    results = {AutoAugment(policy)(image, rng).tobytes() for _ in range(200)}
    assert len(results) > 25


def test_aug_mix_is_the_blend_of_its_chains(photo, monkeypatch):
    """Chains that make the image white or leave it: a pixel tells their weights."""
    image = np.full((4, 4, 3), 55, np.uint8)
    augment = AugMix(width=2, depth=1)
    lengths = []

    def whiten(image, name, strength, **options):
        lengths.append(name)
        return np.full_like(image, 255)

    monkeypatch.setattr("jaxvision.data.augment.operations.apply_operation", whiten)
    shares = []
    for seed in range(400):
        level = int(augment(image, np.random.default_rng(seed))[0, 0, 0])
        expected = np.random.default_rng(seed).beta(1.0, 1.0)  # the first draw
        assert level == round(55 + 200 * expected)
        shares.append(expected)
    assert len(lengths) == 800 and 0.45 < np.mean(shares) < 0.55
    assert "identity" not in lengths and "invert" not in lengths and len(set(lengths)) == 13
    lengths.clear()
    for seed in range(300):
        AugMix(width=1)(image, np.random.default_rng(seed))
    assert 1.8 < len(lengths) / 300 < 2.2  # 1, 2 or 3


def test_aug_mix_without_change_is_the_identity(photo, monkeypatch):
    monkeypatch.setattr(
        "jaxvision.data.augment.operations.apply_operation", lambda image, *_, **__: image.copy()
    )
    image = photo(20, 20)
    for seed in range(10):
        blend = AugMix()(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(blend, image)


def test_three_augment_draws_all_three(photo):
    image = photo(64, 64)
    rng, kinds = np.random.default_rng(0), []
    for _ in range(300):
        result = three_augment()(image, rng)
        if (result == result[..., :1]).all():
            kinds.append("grey")
        elif (np.where(image < 128, image, 255 - image) == result).all():
            kinds.append("solarized")
        else:
            kinds.append("blurred")
            assert np.abs(result.astype(int) - image).mean() < 12
    assert all(70 < kinds.count(kind) < 130 for kind in ("grey", "solarized", "blurred"))


@pytest.mark.parity
@pytest.mark.parametrize("name", TIMM_OPERATIONS)
def test_timm_operations_are_timms(photo, name):
    from timm.data import auto_augment as timm

    level = timm.LEVEL_TO_ARG[TIMM_NAMES[name]]
    for image in (photo(48, 31), photo(20, 20, 1)):
        for magnitude in (0.0, 0.7, 5.0, 8.36, 9.0, 10.0):
            for resample in (PIL.Image.Resampling.BILINEAR, PIL.Image.Resampling.BICUBIC):
                arguments = level(magnitude, {}) if level else ()
                if name == "posterize" and arguments[0] == 0:
                    continue  # Pillow refuses to leave no bit
                expected = timm.NAME_TO_OP[TIMM_NAMES[name]](
                    PIL.Image.fromarray(image),
                    *arguments,
                    fillcolor=(124, 116, 104),
                    resample=resample,
                )
                # timm draws the sign inside: one of the two must be it.
                ours = [
                    apply_timm_operation(image, name, sign * magnitude, resampling=resample)
                    for sign in ((1, -1) if name in TIMM_SIGNED else (1,))
                ]
                assert any((one == np.asarray(expected)).all() for one in ours), magnitude


@pytest.mark.parity
def test_timm_operations_are_complete():
    from timm.data.auto_augment import _RAND_INCREASING_TRANSFORMS

    assert [TIMM_NAMES[name] for name in TIMM_OPERATIONS] == _RAND_INCREASING_TRANSFORMS


def test_timm_rand_augment_draws(drawn, photo):
    rng = np.random.default_rng(0)
    augment = TimmRandAugment(layers=2, magnitude=9.0, deviation=0.5)
    for _ in range(3000):
        augment(photo(8, 8), rng)
    assert 2850 < len(drawn) < 3150  # every second of 6,000
    magnitudes = np.array([abs(s) for _, s in drawn])
    assert {name for name, _ in drawn} == set(TIMM_OPERATIONS)
    assert abs(np.median(magnitudes) - 9) < 0.05 and magnitudes.max() <= 10.0
    assert 0.4 < magnitudes.std() < 0.55
    assert all(s >= 0 for name, s in drawn if name not in TIMM_SIGNED)
    signs = [s > 0 for name, s in drawn if name in TIMM_SIGNED]
    assert 0.45 < np.mean(signs) < 0.55


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AutoAugment("cifar"), "policy must be one of imagenet, cifar10, svhn"),
        (lambda: TrivialAugment("linear"), "TrivialAugment.interpolation must be one of nearest"),
        (lambda: AugMix(severity=11), "severity of 1..10"),
        (lambda: AugMix(width=0), "width of at least 1"),
        (lambda: AugMix(alpha=0.0), "AugMix.alpha must be above 0"),
        (lambda: TimmRandAugment(magnitude=11.0), "magnitude of 0..10"),
        (lambda: TimmRandAugment(probability=1.5), r"probability in \[0, 1\]"),
    ],
)
def test_policy_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_policies_change_no_input_and_need_a_generator(photo):
    image = photo(24, 20)
    original = image.copy()
    image.flags.writeable = False
    policies = [RandAugment(3, 30), TrivialAugment(), AugMix(10), three_augment()]
    for policy in (*policies, *map(AutoAugment, POLICIES), TimmRandAugment()):
        rng = np.random.default_rng(0)
        results = [policy(image, rng) for _ in range(40)]
        assert all(r.shape == image.shape and r.dtype == np.uint8 for r in results)
        again = policy(image, np.random.default_rng(0))
        np.testing.assert_array_equal(again, results[0])
        with pytest.raises(ValueError, match="pass numpy.random.default_rng"):
            policy(image, None)
    np.testing.assert_array_equal(image, original)


def test_operations_are_all_there():
    assert list(TORCH_NAMES) + ["invert"] == list(OPERATIONS)
