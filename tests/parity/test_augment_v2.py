"""Operation by operation against torchvision.transforms.v2 on uint8, with the same parameters.

`levels` is the greatest difference that was measured, and the one allowed. Where it is 0, integers
leave no choice. torchvision itself has two results, one for tensors and one for PIL images.
"""

import numpy as np
import PIL.Image
import pytest

torch = pytest.importorskip("torch")
v2 = pytest.importorskip("torchvision.transforms.v2")
functional = v2.functional

from torchvision.transforms import AutoAugmentPolicy, InterpolationMode  # noqa: E402

from jaxvision.data.augment import color  # noqa: E402
from jaxvision.data.augment.auto_augment import POLICIES  # noqa: E402
from jaxvision.data.augment.crops import RandomResizedCrop  # noqa: E402
from jaxvision.data.augment.geometry import (  # noqa: E402  # noqa: E402
    HorizontalFlip,
    Perspective,
    VerticalFlip,
    affine,
    perspective,
)
from jaxvision.data.augment.noise import RandomErasing, gaussian_blur  # noqa: E402
from jaxvision.data.augment.operations import (  # noqa: E402
    AUTO_SPACE,
    MIX_SPACE,
    OPERATIONS,
    RAND_SPACE,
    SIGNED,
    WIDE_SPACE,
    apply_operation,
)

pytestmark = pytest.mark.parity
NAMES = {name: name.title().replace("_", "") for name in OPERATIONS}
NAMES["autocontrast"] = "AutoContrast"
CORNERS = [[2, 3], [15, 1], [16, 14], [1, 17]]


def photo(height, width, seed):
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC)
    return np.array(picture)


def images():
    rng = np.random.default_rng(0)
    return [
        photo(48, 31, 0),
        photo(37, 64, 1),
        rng.integers(0, 256, (29, 40, 3), dtype=np.uint8),
        rng.integers(90, 140, (20, 20, 3), dtype=np.uint8),
        np.full((20, 24, 3), 77, np.uint8),
    ]


def on_tensor(operation, image):
    return operation(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy().astype(int)


def on_picture(operation, image):
    return np.asarray(operation(PIL.Image.fromarray(image))).astype(int)


def rotation(degrees, mode="bilinear"):
    return (
        lambda image: affine(image, degrees=degrees, interpolation=mode),
        lambda image: functional.rotate(image, degrees, InterpolationMode(mode)),
    )


def movement(degrees, translate, scale, shear, mode="bilinear"):
    def ours(image):
        place = tuple(map(float, translate))
        return affine(
            image, degrees=-degrees, translate=place, scale=scale, shear=shear, interpolation=mode
        )

    def theirs(image):
        return functional.affine(
            image, degrees, list(translate), scale, list(shear), InterpolationMode(mode)
        )

    return ours, theirs


def view(mode="bilinear"):
    def theirs(image):
        height, width = functional.get_size(image)
        own = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
        return functional.perspective(image, own, CORNERS, InterpolationMode(mode))

    return lambda image: perspective(image, np.array(CORNERS), interpolation=mode), theirs


def adjustment(name, value):
    return (
        lambda image: getattr(color, name)(image, value),
        lambda image: getattr(functional, name)(image, value),
    )


def blurring(size, sigma):
    return (
        lambda image: gaussian_blur(image, sigma, kernel_size=size),
        lambda image: functional.gaussian_blur(image, [size, size], [sigma, sigma]),
    )


FACTORS = (0.0, 0.1, 0.37, 1.0, 1.21, 1.9)
# Name: (ours, theirs), levels on tensors, levels on PIL images (None: see the tests below).
TABLE = {
    "invert": ((color.invert, functional.invert), 0, 0),
    "equalize": ((color.equalize, functional.equalize), 0, 0),
    # Tensors stretch in float32, which may fall short of a whole level; Pillow in float64.
    "autocontrast": ((color.autocontrast, functional.autocontrast), 1, 0),
    "horizontal flip": (
        (lambda x: HorizontalFlip(1.0)(x, np.random.default_rng(0)), functional.horizontal_flip),
        *(0, 0),
    ),
    "vertical flip": (
        (lambda x: VerticalFlip(1.0)(x, np.random.default_rng(0)), functional.vertical_flip),
        *(0, 0),
    ),
    **{f"posterize {n}": (adjustment("posterize", n), 0, 0) for n in range(1, 9)},
    **{
        f"solarize {t}": (adjustment("solarize", t), 0, 0) for t in (0.0, 17.0, 128.0, 200.5, 255.0)
    },
    **{f"brightness {f}": (adjustment("adjust_brightness", f), 0, 0) for f in FACTORS},
    **{f"sharpness {f}": (adjustment("adjust_sharpness", f), 0, 0) for f in FACTORS},
    # Tensors cut the grey level off, Pillow rounds it, and ours is Pillow's.
    **{f"contrast {f}": (adjustment("adjust_contrast", f), 1, 0) for f in FACTORS},
    **{f"saturation {f}": (adjustment("adjust_saturation", f), 1, 0) for f in FACTORS},
    "grayscale": ((color.grayscale, lambda x: functional.rgb_to_grayscale(x, 3)), 1, 0),
    # Pillow has 256 hues; ours are floats as on tensors, and round where those cut off.
    **{
        f"hue {s}": (adjustment("adjust_hue", s), 1, 16)
        for s in (-0.5, -0.21, -0.02, 0.0, 0.1, 0.33, 0.5)
    },
    # OpenCV's weights have 8 bits.
    **{
        f"blur {size} {sigma}": (blurring(size, sigma), 1, 1)
        for size, sigma in ((3, 0.1), (3, 0.7), (3, 2.0), (5, 0.5), (9, 1.3))
    },
    # Weights in float32, in another order. Pillow does not blend with the border: see below.
    **{f"rotate {d}": (rotation(d), 1, None) for d in (0.0, 7.0, -33.0, 90.0, 135.0, 180.0)},
    "affine": (movement(17.0, (5, -7), 1.1, (8.0, -3.0)), 1, None),
    "affine, smaller": (movement(-30.0, (0, 0), 0.7, (0.0, 20.0)), 1, None),
    "affine, shift": (movement(0.0, (13, 4), 1.0, (0.0, 0.0)), 0, 0),
    "perspective": (view(), 1, None),
}


@pytest.mark.parametrize("name", TABLE)
def test_pixels(name):
    (ours, theirs), tensor_levels, picture_levels = TABLE[name]
    for image in images():
        result = ours(image).astype(int)
        assert np.abs(result - on_tensor(theirs, image)).max() <= tensor_levels
        if picture_levels is not None:
            assert np.abs(result - on_picture(theirs, image)).max() <= picture_levels


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row[2] is None])
def test_warps_differ_from_pillow_at_the_border_alone(name):
    (ours, theirs), _, _ = TABLE[name]
    white = np.full((48, 31, 3), 255, np.uint8)
    smooth = images()[0]
    inside = (ours(white) == 255) & (on_picture(theirs, white) == 255)
    assert inside.mean() > 0.1
    difference = np.abs(ours(smooth).astype(int) - on_picture(theirs, smooth))[inside]
    assert difference.max() <= 1


@pytest.mark.parametrize(
    "pair",
    [rotation(7.0, "nearest"), rotation(-33.0, "nearest"), view("nearest")]
    + [movement(17.0, (5, -7), 1.1, (8.0, -3.0), "nearest")]
    + [movement(-30.0, (0, 0), 0.7, (0.0, 20.0), "nearest")],
)
def test_nearest_warps_take_the_same_pixels(pair):
    """But for places half-way between two pixels, where the last bit decides."""
    ours, theirs = pair
    for image in images():
        assert (ours(image) != on_tensor(theirs, image)).mean() < 0.03  # measured: 0.02


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_antialiased_crop_is_exact(interpolation):
    image = photo(90, 120, 0)
    crop = RandomResizedCrop((32, 40), interpolation=interpolation, antialias=True)
    for seed in range(8):
        top, left, height, width = crop.draw(90, 120, np.random.default_rng(seed))
        theirs = functional.resized_crop(
            PIL.Image.fromarray(image), top, left, height, width,
            [32, 40], InterpolationMode(interpolation),
        )  # fmt: skip
        ours = crop(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(ours, np.asarray(theirs))


@pytest.mark.parametrize(
    "policy, name",
    [
        (AutoAugmentPolicy.IMAGENET, "imagenet"),
        (AutoAugmentPolicy.CIFAR10, "cifar10"),
        (AutoAugmentPolicy.SVHN, "svhn"),
    ],
)
def test_auto_augment_tables(policy, name):
    theirs = v2.AutoAugment(policy)._policies
    ours = [
        tuple((NAMES[step], p, m if NAMES[step] in WITH_MAGNITUDE else None) for step, p, m in pair)
        for pair in POLICIES[name]
    ]
    assert ours == [tuple(pair) for pair in theirs] and len(ours) == 25


WITH_MAGNITUDE = {NAMES[name] for name in OPERATIONS} - {
    *("Identity", "AutoContrast", "Equalize", "Invert")
}


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (97, 331), (48, 384)])
@pytest.mark.parametrize(
    "space, theirs, missing",
    [
        (RAND_SPACE, v2.RandAugment._AUGMENTATION_SPACE, {"Invert"}),
        (AUTO_SPACE, v2.AutoAugment._AUGMENTATION_SPACE, {"Identity"}),
        (WIDE_SPACE, v2.TrivialAugmentWide._AUGMENTATION_SPACE, {"Invert"}),
        (MIX_SPACE, v2.AugMix._AUGMENTATION_SPACE, {"Identity", "Invert"}),
    ],
)
def test_strengths(space, theirs, missing, size):
    assert set(NAMES.values()) - missing == set(theirs)
    for name in OPERATIONS:
        if NAMES[name] in missing:
            continue
        values, signed = theirs[NAMES[name]]
        values = values(space.bins, *size)
        assert (name in SIGNED) == signed
        for magnitude in range(space.bins):
            expected = 0.0 if values is None else float(values[magnitude])
            ours = space.strength(name, magnitude, *size)
            if name == "solarize":  # a threshold between whole levels
                assert ours == pytest.approx(expected * 255, abs=1e-4)
            else:
                assert ours == expected, (name, magnitude)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_the_policies(name):
    """On PIL images bit for bit, at the strengths of every policy."""
    policy = v2.RandAugment()
    for image in images():
        for space in (RAND_SPACE, WIDE_SPACE, MIX_SPACE):
            for magnitude in range(0, space.bins, 4):
                strength = space.strength(name, magnitude, *image.shape[:2])
                if name == "posterize" and strength == 0:
                    continue  # Pillow refuses to leave no bit
                for sign in (1, -1) if name in SIGNED else (1,):
                    theirs = policy._apply_image_or_video_transform(
                        PIL.Image.fromarray(image),
                        NAMES[name],
                        strength / 255 if name == "solarize" else sign * strength,
                        InterpolationMode.NEAREST,
                        {torch.Tensor: None, PIL.Image.Image: None},
                    )
                    ours = apply_operation(image, name, sign * strength)
                    np.testing.assert_array_equal(ours, np.asarray(theirs))


def assert_same_distribution(ours, theirs, limit=0.05):
    """Kolmogorov-Smirnov distance of two samples of 3,000: above 0.044 once in 200 times."""
    ours, theirs = np.sort(ours), np.sort(theirs)
    grid = np.unique(np.concatenate([ours, theirs]))
    gap = np.searchsorted(ours, grid, "right") / len(ours)
    gap = np.abs(gap - np.searchsorted(theirs, grid, "right") / len(theirs)).max()
    assert gap < limit


def test_erasing_draws_from_the_same_distribution():
    torch.manual_seed(0)
    erasing = v2.RandomErasing(p=1.0)
    blank = torch.ones(3, 40, 60)
    boxes = [erasing.make_params([blank]) for _ in range(3000)]
    theirs = np.array([[box["i"], box["j"], box["h"], box["w"]] for box in boxes])
    rng = np.random.default_rng(0)
    ours = np.array([RandomErasing(1.0).draw(40, 60, rng) for _ in range(3000)])
    for column in range(4):
        assert_same_distribution(ours[:, column], theirs[:, column])


def test_perspective_draws_from_the_same_distribution():
    torch.manual_seed(0)
    peer = v2.RandomPerspective(0.4, p=1.0)
    image = torch.ones(3, 40, 60)
    drawn = [peer.make_params([image])["coefficients"] for _ in range(3000)]
    ours, rng = Perspective(0.4), np.random.default_rng(0)
    own = [[0, 0], [59, 0], [59, 39], [0, 39]]
    mine = [
        functional._geometry._get_perspective_coeffs(own, ours.draw(40, 60, rng).tolist())
        for _ in range(3000)
    ]
    for column in range(8):
        assert_same_distribution(np.array(mine)[:, column], np.array(drawn)[:, column])
