"""Colour operations on uint8 RGB, with the arithmetic that torchvision gets from Pillow.

Operations on one level at a time are tables of 256 entries. The tables come from Pillow itself, so
that they round as Pillow does, and OpenCV applies them several times as fast.
"""

import cv2
import numpy as np
import PIL.Image

from jaxvision.data.types import Image

_LEVELS = PIL.Image.fromarray(np.arange(256, dtype=np.uint8)[None])  # [1, 256]
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's filter SMOOTH
_FULL_CIRCLE = 360.0  # degrees of OpenCV's float hues


def adjust_brightness(image: Image, factor: float) -> Image:
    """Returns the image blended with black: 0 is black, 1 the image itself."""
    return cv2.LUT(image, _blend_table(0, factor))


def adjust_contrast(image: Image, factor: float) -> Image:
    """Returns the image blended with its mean grey: 0 is that grey, 1 the image itself."""
    return cv2.LUT(image, _blend_table(int(_luma(image).mean() + 0.5), factor))


def adjust_saturation(image: Image, factor: float) -> Image:
    """Returns the image blended with its greyscale version: 0 is grey, 1 the image itself."""
    return _blend(grayscale(image), image, factor)


def adjust_hue(image: Image, shift: float) -> Image:
    """Returns the image with its hues turned; a shift of 1 would be the full circle.

    Note: the hue is a float as in torchvision's tensors, of which the result is within one grey
    level. Pillow rounds hues to 256 steps, which moves some pixels by 15 levels.
    """
    scaled = np.multiply(image, np.float32(1 / 255), dtype=np.float32)
    hue, saturation, value = cv2.split(cv2.cvtColor(scaled, cv2.COLOR_RGB2HSV))
    hue += np.float32(_FULL_CIRCLE * (shift % 1.0))
    hue -= np.float32(_FULL_CIRCLE) * (hue >= _FULL_CIRCLE)
    turned = cv2.cvtColor(cv2.merge((hue, saturation, value)), cv2.COLOR_HSV2RGB)
    return cv2.convertScaleAbs(turned, alpha=255)


def adjust_sharpness(image: Image, factor: float) -> Image:
    """Returns the image blended with a smoothed one: 0 is smooth, 1 the image, 2 is sharpened."""
    smooth = cv2.filter2D(image, -1, _SMOOTH)
    smooth[[0, -1]] = image[[0, -1]]  # the border stays, as in Pillow
    smooth[:, [0, -1]] = image[:, [0, -1]]
    return _blend(smooth, image, factor)


def grayscale(image: Image) -> Image:
    """Returns the image in grey, as three equal channels."""
    return cv2.cvtColor(_luma(image), cv2.COLOR_GRAY2RGB)


def invert(image: Image) -> Image:
    """Returns the negative of the image."""
    return cv2.bitwise_not(image)


def posterize(image: Image, bits: int) -> Image:
    """Returns the image with only the upper bits of each value left."""
    return image & np.uint8(256 - (1 << (8 - bits)))


def solarize(image: Image, threshold: float) -> Image:
    """Returns the image with every value from the threshold on inverted."""
    levels = np.arange(256)
    return cv2.LUT(image, np.where(levels < threshold, levels, 255 - levels).astype(np.uint8))


def autocontrast(image: Image) -> Image:
    """Returns the image with each channel stretched to 0..255."""
    table = np.empty((1, 256, 3), np.uint8)
    for channel, plane in enumerate(cv2.split(image)):
        low, high = map(int, cv2.minMaxLoc(plane)[:2])
        table[0, :, channel] = autocontrast_levels(low, high)
    return cv2.LUT(image, table)


def autocontrast_levels(low: int, high: int) -> np.ndarray:
    """Returns what each of 256 levels becomes where a channel reaches from `low` to `high`."""
    levels = np.arange(256)
    if high <= low:
        return levels
    scale = 255.0 / (high - low)
    return np.clip((levels * scale + -low * scale).astype(np.int64), 0, 255)


def equalize(image: Image) -> Image:
    """Returns the image with the histogram of each channel made as flat as whole levels allow."""
    table = np.empty((1, 256, 3), np.uint8)
    for channel in range(3):
        counts = cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        used = counts[counts > 0]
        step = (int(used.sum()) - int(used[-1])) // 255 if len(used) > 1 else 0
        levels = np.arange(256)
        if step:
            before = np.cumsum(counts) - counts  # pixels below each level
            levels = np.minimum((step // 2 + before) // step, 255)
        table[0, :, channel] = levels
    return cv2.LUT(image, table)


def _blend_table(level: int, factor: float) -> np.ndarray:
    """Returns what Pillow makes of each level when blending it with a constant one."""
    return np.asarray(PIL.Image.blend(PIL.Image.new("L", (256, 1), level), _LEVELS, factor))[0]


def _blend(start: np.ndarray, end: np.ndarray, factor: float) -> np.ndarray:
    """Returns `start` at factor 0, `end` at 1, and what lies beyond it above.

    In float32 and cut off, as Pillow's blend; its own copies in and out take most of its time.
    """
    result = np.subtract(end, start, dtype=np.float32)
    result *= np.float32(factor)
    result += start
    if not 0 <= factor <= 1:
        np.clip(result, 0, 255, out=result)
    return result.astype(np.uint8)


def _luma(image: np.ndarray) -> np.ndarray:
    """Returns the brightness [height, width] that Pillow sees."""
    return np.asarray(PIL.Image.fromarray(image).convert("L"))
