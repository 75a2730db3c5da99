"""Resized crops on the devices, of images that the host has brought to one size.

Pillow's coefficients come from a table with a row for each length of a part: from 256 to 224 pixels
a megabyte. Each pass is one gather of a few pixels (five, to bilinear 224 of 256) and their sum.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, UInt8

_ATTEMPTS = 10  # to find a part that fits, as torchvision


def random_resized_crop(
    key: PRNGKeyArray,
    image: UInt8[Array, "height width 3"],
    *,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    interpolation: str,
) -> UInt8[Array, "rows columns 3"]:
    """Returns a random part of the image at another size, with antialiasing.

    Args:
      key: Key of the example.
      image: Image to cut from.
      size: Size of the output in pixels, (height, width).
      scale: Range of the part's share of the area.
      ratio: Range of the part's width / height.
      interpolation: Filter of the resize, one of `FILTERS`.

    Source: Szegedy et al. 2015, Going deeper with convolutions, section 6.
    """
    height, width = image.shape[:2]
    part = draw_part(key, height, width, scale=scale, ratio=ratio)
    return resize_part(image, part, size=size, interpolation=interpolation)


def draw_part(
    key: PRNGKeyArray,
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Int[Array, "4"]:
    """Returns top, left, height and width of a random part in pixels, by torchvision's rule.

    Args:
      key: Key of the example.
      height: Height of the image, in pixels.
      width: Width of the image, in pixels.
      scale: Range of the part's share of the area.
      ratio: Range of the part's width / height.
    """
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    whole = jnp.array([height, width])
    area = (
        height
        * width
        * jax.random.uniform(area_key, (_ATTEMPTS,), minval=scale[0], maxval=scale[1])
    )
    shape = jnp.exp(
        jax.random.uniform(
            ratio_key, (_ATTEMPTS,), minval=math.log(ratio[0]), maxval=math.log(ratio[1])
        )
    )
    sizes = jnp.round(jnp.sqrt(jnp.stack([area / shape, area * shape], axis=1)))
    sizes = sizes.astype(jnp.int32)  # [attempts, 2]
    fits = ((sizes > 0) & (sizes <= whole[None])).all(axis=1)
    drawn = sizes[jnp.argmax(fits)]  # the first that fits
    start = jax.random.randint(place_key, (2,), 0, jnp.maximum(whole - drawn, 0) + 1)
    # No part fits: the largest one in the middle whose aspect ratio is within the range.
    rows = round(width / ratio[0]) if width / height < ratio[0] else height
    columns = round(height * ratio[1]) if width / height > ratio[1] else width
    middle = jnp.array([(height - rows) // 2, (width - columns) // 2, rows, columns])
    return jnp.where(fits.any(), jnp.concatenate([start, drawn]), middle)


def resize_part(
    image: UInt8[Array, "height width 3"],
    part: Int[Array, "4"],
    *,
    size: tuple[int, int],
    interpolation: str,
) -> UInt8[Array, "rows columns 3"]:
    """Returns a part of the image at another size, in Pillow's whole numbers.

    Args:
      image: Image to cut from.
      part: Top, left, height and width of the part, in pixels.
      size: Size of the output in pixels, (height, width).
      interpolation: Filter of the resize, one of `FILTERS`.
    """
    top, left, height, width = part
    # Pillow resizes the rows first, and rounds in between.
    pixels = _resize_columns(image, left, width, size[1], interpolation)
    pixels = _resize_columns(pixels.swapaxes(0, 1), top, height, size[0], interpolation)
    return pixels.swapaxes(0, 1)


def _resize_columns(
    image: UInt8[Array, "height width 3"],
    start: Int[Array, ""],
    length: Int[Array, ""],
    size: int,
    interpolation: str,
) -> UInt8[Array, "height {size} 3"]:
    """Returns some of the columns, from `start` on, as `size` columns."""
    first, shares = (jnp.asarray(x)[length] for x in _table(image.shape[1], size, interpolation))
    columns = (start + first)[:, None] + jnp.arange(shares.shape[1])[None]
    pixels = jnp.take(image, columns, axis=1, mode="clip").astype(jnp.int32)
    whole = (pixels * shares[None, :, :, None]).sum(axis=2, dtype=jnp.int32)
    return jnp.clip((whole + (1 << 21)) >> 22, 0, 255).astype(jnp.uint8)


@functools.cache
def _table(side: int, size: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns Pillow's coefficients for parts of every length of a side.

    Returns:
      The first pixel of the part that counts, int32 [side + 1, size], and the shares of it and of
      those that follow, of 2^22, int32 [side + 1, size, pixels].
    """
    support, weigh = _FILTERS[interpolation]
    pixels = np.arange(2 * math.ceil(support * max(side / size, 1)) + 1)
    first = np.zeros((side + 1, size), np.int32)
    shares = np.zeros((side + 1, size, len(pixels)), np.int32)
    for length in range(1, side + 1):
        scale = length / size
        widening = max(scale, 1.0)  # antialiasing: the filter covers what a pixel stands for
        centre = (np.arange(size) + 0.5) * scale
        low = np.maximum(np.trunc(centre - support * widening + 0.5), 0)
        high = np.minimum(np.trunc(centre + support * widening + 0.5), length)
        places = low[:, None] + pixels
        weights = weigh(np.abs(places - centre[:, None] + 0.5) * (1.0 / widening))
        weights = np.where(places < high[:, None], weights, 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
        first[length] = low
        shares[length] = np.trunc(weights * (1 << 22) + np.copysign(0.5, weights))
    return first, shares


def _bilinear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - distance, 0)


def _bicubic(distance: np.ndarray) -> np.ndarray:
    """Returns Keys's cubic of a = -0.5."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


def _lanczos(distance: np.ndarray) -> np.ndarray:
    return np.where(distance < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)


# Pixels on each side that count, and how much they do at a distance.
_FILTERS = {"bilinear": (1.0, _bilinear), "bicubic": (2.0, _bicubic), "lanczos": (3.0, _lanczos)}
FILTERS = tuple(_FILTERS)
