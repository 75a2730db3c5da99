"""The operations of the devices give the pixels of the host's.

The host's are measured against torchvision and Pillow in tests/data/augment.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from jaxvision.data.augment import color, geometry, noise
from jaxvision.train import device_ops, device_warp

SIZES = ((48, 31), (33, 33), (8, 8), (2, 2), (1, 1))


def pictures(height, width):
    """Returns random, smooth, natural-looking, flat and narrow images of one size."""
    rng = np.random.default_rng(height * 100 + width)
    small = PIL.Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.array(small.resize((width, height), PIL.Image.Resampling.BICUBIC))
    grains = rng.normal(0, 6, smooth.shape)
    natural = np.clip(smooth * 0.7 + 30 + grains, 0, 255).astype(np.uint8)
    return [
        rng.integers(0, 256, smooth.shape, dtype=np.uint8),
        smooth,
        natural,
        np.full_like(smooth, 77),
        np.zeros_like(smooth),
        *(rng.integers(low, high, smooth.shape, dtype=np.uint8) for low, high in NARROW),
    ]


NARROW = ((90, 140), (0, 26), (150, 256), (17, 123))


def largest(ours, theirs, values=(None,), sizes=SIZES):
    """Returns the largest difference in levels, over images and values of the parameter."""
    worst = 0
    for size in sizes:
        images = pictures(*size)
        for value in values:
            arguments = () if value is None else (np.asarray(value).item(),)
            given = () if value is None else (jnp.asarray(value),)
            found = compiled(ours)(jnp.asarray(np.stack(images)), *given)
            assert found.dtype == jnp.uint8
            expected = np.stack([theirs(image, *arguments) for image in images])
            worst = max(worst, int(np.abs(np.asarray(found, int) - expected).max()))
    return worst


@functools.cache
def compiled(operation):
    return jax.jit(
        lambda images, *values: jax.vmap(lambda image: operation(image, *values))(images)
    )


def brightness(image, factor):
    return device_ops.blend(jnp.int32(0), image, factor)


def contrast(image, factor):
    return device_ops.blend(device_ops.mean_level(image), image, factor)


def saturation(image, factor):
    return device_ops.blend(device_ops.grayscale(image), image, factor)


def sharpness(image, factor):
    return device_ops.blend(device_ops.smooth(image), image, factor)


def autocontrast(image):
    return device_ops.look_up(image, device_ops.autocontrast_table(device_ops.histogram(image)))


def equalize(image):
    return device_ops.look_up(image, device_ops.equalize_table(device_ops.histogram(image)))


def posterize(image, bits):
    return device_ops.posterize(image, 256 - (1 << (8 - bits)))


def solarize(image, threshold):
    return device_ops.solarize(image, jnp.ceil(threshold).astype(jnp.int32))


def invert(image):
    return device_ops.solarize(image, jnp.int32(0))


def blur(image, sigma):
    return device_ops.gaussian_blur(image, sigma, radius=1)


def turned(image, degrees, reflect=False):
    return device_warp.affine(
        image, device_warp.rotation_matrix(degrees, *image.shape[:2]), reflect=reflect
    )


def moved(image, scale):
    shift = jnp.float32(3.25), jnp.float32(-2.125)
    matrix = device_warp.rotation_matrix(
        jnp.float32(11.0), *image.shape[:2], shift=shift, scale=scale
    )
    return device_warp.affine(image, matrix, reflect=True)


def moved_by_host(image, scale):
    return geometry.affine(
        image, degrees=11.0, translate=(3.25, -2.125), scale=scale, border="reflect"
    )


FACTORS = [np.float32(x) for x in (0.0, 0.01, 0.1, 0.37, 0.5, 0.9, 1.0, 1.1, 1.27, 1.63, 1.9, 1.99)]
SHIFTS = [np.float32(x) for x in (-0.5, -0.21, -0.03, 0.0, 0.05, 0.1, 0.333, 0.5)]
SIGMAS = [np.float32(x) for x in (0.1, 0.25, 0.4, 0.77, 1.0, 1.3, 1.99)]
ANGLES = [np.float32(x) for x in (-135, -90, -30, -7.3, 0, 1, 12.5, 45, 90, 180)]
rotate = geometry.affine
# Largest difference in levels: the operations of both sides, values; the docs have the numbers.
CASES = {
    "brightness": (1, brightness, color.adjust_brightness, FACTORS),
    "contrast": (1, contrast, color.adjust_contrast, FACTORS),
    "saturation": (1, saturation, color.adjust_saturation, FACTORS),
    "sharpness": (1, sharpness, color.adjust_sharpness, FACTORS),
    "hue": (1, device_ops.adjust_hue, color.adjust_hue, SHIFTS),
    "grayscale": (0, device_ops.grayscale, color.grayscale, [None]),
    "invert": (0, invert, color.invert, [None]),
    "posterize": (0, posterize, color.posterize, range(9)),
    "solarize": (0, solarize, color.solarize, [np.float32(x) for x in (0, 8.5, 128, 246.5, 256)]),
    "autocontrast": (0, autocontrast, color.autocontrast, [None]),
    "equalize": (0, equalize, color.equalize, [None]),
    "blur": (0, blur, functools.partial(noise.gaussian_blur, kernel_size=3), SIGMAS),
    "blur, wide": (0, device_ops.gaussian_blur, noise.gaussian_blur, SIGMAS),
    "rotation": (1, turned, lambda image, x: rotate(image, degrees=float(x)), ANGLES),
    "rotation, mirrored": (
        1,
        functools.partial(turned, reflect=True),
        lambda image, x: rotate(image, degrees=float(x), border="reflect"),
        ANGLES,
    ),
    "shift_scale_rotate": (1, moved, moved_by_host, [np.float32(x) for x in (0.5, 0.9, 1, 1.3)]),
}


@pytest.mark.parametrize("name", CASES)
def test_pixels_are_the_hosts(name):
    limit, ours, theirs, values = CASES[name]
    assert largest(ours, theirs, values) <= limit


def test_the_page_tells_these_differences():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "augmentation.md").read_text()
    table = page.split("| operations | largest difference |")[1].split("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if " | " in line]
    for name, (limit, *_) in CASES.items():
        word = name.partition(",")[0]
        assert any(word in names and cell == str(limit) for names, cell in rows), name
