"""Operations on colours and detail on the devices: one uint8 image [height, width, 3] each.

They take and give uint8, round where the host's round, and are exact where they compute in whole
numbers. Every argument but the image may differ from example to example under `jax.vmap`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jaxvision.data.augment.color import autocontrast_levels
from jaxvision.train.device_warp import Pixels, mirror

_LUMA = (19595, 38470, 7471)  # of 65536, as Pillow
_EPSILON = float(np.finfo(np.float32).eps)


def luma(image: Pixels) -> Int[Array, "height width"]:
    """Returns the brightness that Pillow sees."""
    red, green, blue = (
        image[..., channel].astype(jnp.int32) * weight for channel, weight in enumerate(_LUMA)
    )
    return (red + green + blue + (1 << 15)) >> 16


def grayscale(image: Pixels) -> Pixels:
    """Returns the image in grey, as three equal channels."""
    return jnp.broadcast_to(luma(image).astype(jnp.uint8)[..., None], image.shape)


def mean_level(image: Pixels) -> Int[Array, ""]:
    """Returns the mean brightness, rounded to a whole level."""
    count = image.shape[0] * image.shape[1]
    return (luma(image).sum(dtype=jnp.int32) + count // 2) // count


def smooth(image: Pixels) -> Pixels:
    """Returns what `adjust_sharpness` of the host blends with: Pillow's filter SMOOTH."""
    height, width = image.shape[:2]
    wide = jnp.pad(image.astype(jnp.int32), ((1, 1), (1, 1), (0, 0)))
    box = [wide[top : top + height, left : left + width] for top in range(3) for left in range(3)]
    whole = functools.reduce(jnp.add, [*box, *[box[4]] * 4])
    rows, columns = (
        (jnp.arange(side) > 0) & (jnp.arange(side) < side - 1) for side in (height, width)
    )
    inside = (rows[:, None] & columns[None])[..., None]
    # With `.at[1:-1, 1:-1].set` XLA for CPUs may overwrite pixels that it has yet to read.
    return jnp.where(inside, (2 * whole + 13) // 26, image).astype(jnp.uint8)  # of 13, rounded


def blend(
    start: UInt8[Array, "height width 3"] | Int[Array, ""], image: Pixels, factor: Float[Array, ""]
) -> Pixels:
    """Returns `start`, an image or a level, at factor 0, the image at 1, and more of it above."""
    start = start.astype(jnp.float32)
    mixed = start + factor.astype(jnp.float32) * (image.astype(jnp.float32) - start)
    return jnp.clip(mixed, 0, 255).astype(jnp.uint8)


def adjust_hue(image: Pixels, shift: Float[Array, ""]) -> Pixels:
    """Returns the image with its hues turned; a shift of 1 would be the full circle."""
    red, green, blue = (image[..., channel].astype(jnp.float32) / 255 for channel in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    spread = value - jnp.minimum(jnp.minimum(red, green), blue)
    saturation = spread / (value + _EPSILON)
    sixth = 1 / (spread + _EPSILON)  # hues are counted in sixths of the circle
    hue = jnp.where(
        value == red,
        (green - blue) * sixth,
        jnp.where(value == green, (blue - red) * sixth + 2, (red - green) * sixth + 4),
    )
    hue = (hue + 6 * (shift % 1.0)) % 6.0
    # The published formula of HSV: a channel is the value, less what its place in the circle takes.
    channels = []
    for place in (5.0, 3.0, 1.0):
        turned = (hue + place) % 6.0
        share = jnp.clip(jnp.minimum(turned, 4 - turned), 0, 1)
        channels.append(value - value * saturation * share)
    return jnp.clip(jnp.round(255 * jnp.stack(channels, axis=-1)), 0, 255).astype(jnp.uint8)


def adjust(image: Pixels, strengths: dict[str, Float[Array, ""]], number: Int[Array, ""]) -> Pixels:
    """Returns the image after one adjustment of its colours.

    Args:
      image: Image to change.
      strengths: Factors of brightness, contrast and saturation, and the shift of the hue, of those
        that the image may be changed in.
      number: Place in `strengths` of the adjustment to make.
    """
    starts = {
        "brightness": lambda image: jnp.int32(0),
        "contrast": mean_level,
        "saturation": grayscale,
    }
    result = image
    for place, (name, strength) in enumerate(strengths.items()):
        if name == "hue":
            changed = adjust_hue(image, strength)
        else:
            changed = blend(starts[name](image), image, strength)
        result = jnp.where(number == place, changed, result)
    return result


def posterize(image: Pixels, mask: Int[Array, ""]) -> Pixels:
    """Returns the image with only the bits of the mask left; 255 leaves all."""
    return image & mask.astype(jnp.uint8)


def solarize(image: Pixels, threshold: Int[Array, ""]) -> Pixels:
    """Returns the image with every value from the threshold on inverted; 256 inverts none."""
    return jnp.where(image.astype(jnp.int32) < threshold, image, 255 - image)


def histogram(image: Pixels) -> Int[Array, "256 3"]:
    """Returns how often each level is in each channel."""
    codes = 3 * image.astype(jnp.int32) + jnp.arange(3)[None, None]
    return jnp.zeros(768, jnp.int32).at[codes.ravel()].add(1).reshape(256, 3)


def autocontrast_table(counts: Int[Array, "256 3"]) -> UInt8[Array, "256 3"]:
    """Returns what `autocontrast` of the host makes of each level, from the histogram."""
    levels = jnp.arange(256)[:, None]
    low, high = jnp.argmax(counts > 0, axis=0)[None], _brightest(counts)
    exact = 255 * (levels - low) // jnp.maximum(high - low, 1)
    # The host computes in float64 and cuts: sometimes less than the whole number that it should be.
    codes = jnp.asarray(_less_than_exact())
    code = (low * 256 + high) * 256 + levels
    less = codes[jnp.searchsorted(codes, code)] == code
    return jnp.where(high > low, jnp.clip(exact - less, 0, 255), levels).astype(jnp.uint8)


def equalize_table(counts: Int[Array, "256 3"]) -> UInt8[Array, "256 3"]:
    """Returns what `equalize` of the host makes of each level, from the histogram."""
    levels = jnp.arange(256)[:, None]
    last = jnp.take_along_axis(counts, _brightest(counts), axis=0)
    step = (counts.sum(axis=0, keepdims=True) - last) // 255
    before = jnp.cumsum(counts, axis=0) - counts
    flat = jnp.minimum((step // 2 + before) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, flat, levels).astype(jnp.uint8)


def _brightest(counts: Int[Array, "256 3"]) -> Int[Array, "1 3"]:
    return 255 - jnp.argmax(counts[::-1] > 0, axis=0)[None]


def look_up(image: Pixels, table: UInt8[Array, "256 3"]) -> Pixels:
    """Returns the image with each level replaced by that of the table."""
    return table[image, jnp.arange(3)[None, None]]


def gaussian_blur(image: Pixels, sigma: Float[Array, ""], *, radius: int | None = None) -> Pixels:
    """Returns the image blurred by a Gaussian, in OpenCV's whole numbers.

    Args:
      image: Image to blur.
      sigma: Standard deviation of the Gaussian, in pixels.
      radius: Number of pixels on each side of a pixel that count; None: as many as OpenCV takes for
        a Gaussian of at most 2 pixels.
    """
    reach = 6 if radius is None else radius
    used = (jnp.round(6 * sigma + 1).astype(jnp.int32) | 1) // 2 if radius is None else radius
    offsets = jnp.arange(-reach, reach + 1)
    weights = jnp.where(jnp.abs(offsets) <= used, jnp.exp(-0.5 * (offsets / sigma) ** 2), 0.0)
    weights = 256 * weights / weights.sum()
    error, whole = jnp.float32(0), []
    for weight in weights[:reach]:  # what one rounds away goes to the next
        whole.append(jnp.round(weight + error).astype(jnp.int32))
        error = weight + error - whole[-1]
    whole = [*whole, 256 - 2 * sum(whole), *whole[::-1]]
    result = image.astype(jnp.int32)
    for axis in (1, 0):
        side = image.shape[axis]
        wide = jnp.take(result, mirror(jnp.arange(-reach, side + reach), side), axis=axis)
        parts = [
            weight * jax.lax.slice_in_dim(wide, start, start + side, axis=axis)
            for start, weight in enumerate(whole)
        ]
        result = functools.reduce(jnp.add, parts)
    return ((result + (1 << 15)) >> 16).astype(jnp.uint8)


@functools.cache
def _less_than_exact() -> np.ndarray:
    """Returns the codes of (low, high, level) of which the host's stretched level is one less."""
    levels = np.arange(256)
    codes = []
    for low in range(255):
        for high in range(low + 1, 256):
            inside = levels[low : high + 1]
            less = autocontrast_levels(low, high)[inside] < 255 * (inside - low) // (high - low)
            codes.extend((low * 256 + high) * 256 + inside[less])
    return np.array([*codes, 1 << 24], np.int32)  # a last one that no code reaches
