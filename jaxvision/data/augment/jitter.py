"""Random operations on colours; what they do to the pixels is in color.py."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from jaxvision.data.augment import color
from jaxvision.data.types import Image, require_rng
from jaxvision.errors import InputError
from jaxvision.options.checks import check_limits, check_probability

_HUES = 180  # of OpenCV's 8-bit HSV: two degrees each


@dataclass(frozen=True)
class ColorJitter:
    """Changes brightness, contrast, saturation and hue in a random order, as torchvision does.

    Each of the first three factors is drawn from [max(0, 1 - value), 1 + value], the hue's shift
    from [-hue, hue]; a value of 0 leaves that property alone.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image in other colours."""
        rng = require_rng(rng)
        for number in rng.permutation(4):
            if number == 0 and self.brightness:
                image = color.adjust_brightness(image, _draw_factor(self.brightness, rng))
            elif number == 1 and self.contrast:
                image = color.adjust_contrast(image, _draw_factor(self.contrast, rng))
            elif number == 2 and self.saturation:
                image = color.adjust_saturation(image, _draw_factor(self.saturation, rng))
            elif number == 3 and self.hue:
                image = color.adjust_hue(image, rng.uniform(-self.hue, self.hue))
        return image


@dataclass(frozen=True)
class HueSaturationValue:
    """Adds a random number to the hue, the saturation and the value of all pixels.

    Args:
      hue: Largest shift of the hue, in steps of two degrees.
      saturation: Largest shift of the saturation, out of 255.
      value: Largest shift of the value, out of 255.

    Raises:
      InputError: for a number out of its range.

    Source: Albumentations' HueSaturationValue, whose units are OpenCV's.
    """

    hue: float = 20.0
    saturation: float = 30.0
    value: float = 20.0

    def __post_init__(self):
        check_limits(
            "HueSaturationValue",
            (self.hue, self.saturation, self.value),
            {"hue": float(_HUES), "saturation": 255.0, "value": 255.0},
        )

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image in other colours."""
        limits = np.array([self.hue, self.saturation, self.value])
        return shift_hsv(image, *require_rng(rng).uniform(-limits, limits))


@dataclass(frozen=True)
class RandomBrightnessContrast:
    """Multiplies all levels by 1 + c and adds b of 255, as in Albumentations.

    Args:
      brightness: Largest change of the brightness; b is drawn from [-brightness, brightness].
      contrast: Largest change of the contrast; c is drawn from [-contrast, contrast].

    Raises:
      InputError: for a number out of its range.
    """

    brightness: float = 0.2
    contrast: float = 0.2

    def __post_init__(self):
        check_limits(
            "RandomBrightnessContrast",
            (self.brightness, self.contrast),
            {"brightness": 1.0, "contrast": 1.0},
        )

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image with another contrast and brightness."""
        rng = require_rng(rng)
        contrast = rng.uniform(-self.contrast, self.contrast)
        brightness = rng.uniform(-self.brightness, self.brightness)
        levels = np.arange(256) * (1 + contrast) + 255 * brightness
        return cv2.LUT(image, np.clip(np.rint(levels), 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Grayscale:
    """Takes the colours away with the given probability; the image keeps three channels.

    Raises:
      InputError: if the probability is outside [0, 1].
    """

    probability: float = 0.1

    def __post_init__(self):
        check_probability("Grayscale.probability", self.probability)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image, perhaps in grey."""
        return color.grayscale(image) if require_rng(rng).random() < self.probability else image


@dataclass(frozen=True)
class Solarize:
    """Inverts every value from the threshold on.

    Raises:
      InputError: if the threshold is outside 0..256.
    """

    threshold: float = 128.0

    def __post_init__(self):
        if not 0 <= self.threshold <= 256 or math.isnan(self.threshold):
            raise InputError(f"Solarize.threshold must be in 0..256, got {self.threshold}.")

    def __call__(self, image: Image, rng: np.random.Generator | None = None) -> Image:
        """Returns the solarized image."""
        return color.solarize(image, self.threshold)


def shift_hsv(image: Image, hue: float, saturation: float, value: float) -> Image:
    """Returns the image with shifted hues, saturations and values.

    Args:
      image: RGB image, uint8 [height, width, 3].
      hue: Shift of the hue, in steps of two degrees.
      saturation: Shift of the saturation, out of 255.
      value: Shift of the value, out of 255.
    """
    levels = np.arange(256)
    table = np.stack(
        [
            np.mod(levels + round(hue), _HUES),
            np.clip(levels + round(saturation), 0, 255),
            np.clip(levels + round(value), 0, 255),
        ],
        axis=-1,
    ).astype(np.uint8)[None]  # [1, 256, 3]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB)


def _draw_factor(value: float, rng: np.random.Generator) -> float:
    return rng.uniform(max(0.0, 1 - value), 1 + value)
