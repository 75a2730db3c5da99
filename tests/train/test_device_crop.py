"""Resized crops on the devices: the pixels of the host's exact ones, drawn by its rule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train.test_device_ops import pictures

from jaxvision.data.augment.crops import RandomResizedCrop, Resize
from jaxvision.train.device_crop import FILTERS, draw_part, random_resized_crop, resize_part

DRAW = dict(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
PARTS = (
    (0, 0, 64, 64),
    (3, 5, 61, 40),
    (10, 20, 20, 24),
    (60, 1, 3, 2),
    (7, 7, 1, 1),
    (0, 0, 24, 20),
)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [(24, 20), (64, 64), (100, 30)])
def test_pixels_are_the_hosts(size, interpolation):
    images = pictures(64, 64)
    resize = functools.partial(resize_part, size=size, interpolation=interpolation)
    run = jax.jit(jax.vmap(resize, (0, None)))
    host = Resize(size, interpolation)
    for top, left, height, width in PARTS:
        found = np.asarray(
            run(jnp.asarray(np.stack(images)), jnp.array([top, left, height, width]))
        )
        for image, ours in zip(images, found, strict=True):
            theirs = host(image[top : top + height, left : left + width])
            np.testing.assert_array_equal(ours, theirs, str((top, left, height, width)))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64), (400, 20)])
def test_parts_are_drawn_as_the_host_draws_them(height, width):
    keys, rng = jax.random.split(jax.random.key(0), 3000), np.random.default_rng(0)
    draw = functools.partial(draw_part, height=height, width=width, **DRAW)
    ours = np.asarray(jax.jit(jax.vmap(draw))(keys))
    crop = RandomResizedCrop((8, 8), **DRAW)
    theirs = np.array([crop.draw(height, width, rng) for _ in range(3000)])
    assert (ours[:, 2:] > 0).all() and (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= (height, width)).all()
    for mine, other in zip(ours.T, theirs.T, strict=True):
        # Kolmogorov-Smirnov distance of two samples of 3,000: above 0.045 once in 200 times.
        grid = np.arange(max(height, width) + 1)
        gap = [np.searchsorted(np.sort(x), grid, "right") / 3000 for x in (mine, other)]
        assert np.abs(gap[0] - gap[1]).max() < 0.045


def test_a_crop_is_the_part_that_is_drawn():
    image, key = jnp.asarray(pictures(40, 40)[2]), jax.random.key(5)
    found = random_resized_crop(key, image, size=(16, 16), interpolation="bicubic", **DRAW)
    part = draw_part(key, 40, 40, **DRAW)
    expected = resize_part(image, part, size=(16, 16), interpolation="bicubic")
    np.testing.assert_array_equal(found, expected)
