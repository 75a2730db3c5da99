"""Operations that take detail away: blur, noise, random erasing."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from jaxvision.data.types import Image, require_rng
from jaxvision.errors import InputError, check_choice
from jaxvision.options.checks import check_interval, check_probability

# Of ImageNet, in grey levels: what a normalised image calls 0 and 1.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class GaussianBlur:
    """Blurs with a Gaussian of random width, with the given probability.

    Args:
      kernel_size: Size of the kernel in pixels, odd; 0: as large as the Gaussian's width needs.
      sigma: Range of the standard deviation, in pixels.
      probability: Probability of applying the operation.

    Raises:
      InputError: for a number out of its range.
    """

    kernel_size: int = 3
    sigma: tuple[float, float] = (0.1, 2.0)
    probability: float = 0.5

    def __post_init__(self):
        if self.kernel_size < 0 or (self.kernel_size and self.kernel_size % 2 == 0):
            raise InputError(f"GaussianBlur.kernel_size is odd or 0, but is {self.kernel_size}.")
        check_interval("GaussianBlur.sigma", self.sigma, least=1e-3)
        check_probability("GaussianBlur.probability", self.probability)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image, perhaps blurred."""
        rng = require_rng(rng)
        if rng.random() >= self.probability:
            return image
        return gaussian_blur(image, rng.uniform(*self.sigma), kernel_size=self.kernel_size)


@dataclass(frozen=True)
class GaussianNoise:
    """Adds independent normal noise to every value, with the given probability.

    Args:
      variance: Range of the noise's variance, in squared grey levels.
      probability: Probability of applying the operation.

    Raises:
      InputError: for a number out of its range.

    Source: Albumentations' GaussNoise(var_limit=(10, 50)); its later std_range is the square root
      of the variance over 255.
    """

    variance: tuple[float, float] = (10.0, 50.0)
    probability: float = 0.5

    def __post_init__(self):
        check_interval("GaussianNoise.variance", self.variance, least=0.0)
        check_probability("GaussianNoise.probability", self.probability)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image, perhaps with noise."""
        rng = require_rng(rng)
        if rng.random() >= self.probability:
            return image
        noise = rng.standard_normal(image.shape, np.float32)
        noise *= np.float32(math.sqrt(rng.uniform(*self.variance)))
        return cv2.add(image, noise, dtype=cv2.CV_8U)  # rounds and saturates


@dataclass(frozen=True)
class IsoNoise:
    """Adds the noise of a camera at high sensitivity: of brightness and of hue.

    Args:
      color_shift: Range of the hue's standard deviation, as a share of the circle at full
        intensity.
      intensity: Range of the strength of both kinds of noise.
      probability: Probability of applying the operation.

    Raises:
      InputError: for a number out of its range.

    Source: Albumentations' ISONoise.
    """

    color_shift: tuple[float, float] = (0.01, 0.05)
    intensity: tuple[float, float] = (0.1, 0.5)
    probability: float = 0.5

    def __post_init__(self):
        check_interval("IsoNoise.color_shift", self.color_shift, least=0.0, greatest=1.0)
        check_interval("IsoNoise.intensity", self.intensity, least=0.0)
        check_probability("IsoNoise.probability", self.probability)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image, perhaps with noise."""
        rng = require_rng(rng)
        if rng.random() >= self.probability:
            return image
        shift, intensity = rng.uniform(*self.color_shift), rng.uniform(*self.intensity)
        scaled = np.multiply(image, np.float32(1 / 255), dtype=np.float32)
        hue, lightness, saturation = cv2.split(cv2.cvtColor(scaled, cv2.COLOR_RGB2HLS))
        strength = float(lightness.std()) * intensity * 255
        hue += rng.standard_normal(hue.shape, np.float32) * np.float32(shift * 360 * intensity)
        hue %= np.float32(360)
        grains = rng.poisson(strength, lightness.shape).astype(np.float32)
        lightness += grains * (1 / 255) * (1 - lightness)
        noisy = cv2.cvtColor(cv2.merge((hue, lightness, saturation)), cv2.COLOR_HLS2RGB)
        return cv2.convertScaleAbs(np.maximum(noisy, 0), alpha=255)


@dataclass(frozen=True)
class RandomErasing:
    """Covers a random rectangle, with the given probability.

    Args:
      probability: Probability of applying the operation.
      scale: Range of the rectangle's share of the area.
      ratio: Range of the rectangle's height / width.
      fill: Fill of the rectangle: mean (the data's mean colour, which is 0 after normalisation) |
        black | noise (normal noise about the mean: `pixel` in DeiT's recipe).

    Raises:
      InputError: for a number out of its range or an unknown fill.

    Source: Zhong et al. 2017, Random erasing, https://arxiv.org/abs/1708.04896, algorithm 1.
    """

    probability: float = 0.25
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    fill: str = "mean"

    def __post_init__(self):
        check_probability("RandomErasing.probability", self.probability)
        check_interval("RandomErasing.scale", self.scale, least=0.0, greatest=1.0)
        check_interval("RandomErasing.ratio", self.ratio, least=1e-3)
        check_choice("RandomErasing.fill", self.fill, ("mean", "black", "noise"))

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image, perhaps with a covered rectangle."""
        rng = require_rng(rng)
        if rng.random() >= self.probability:
            return image
        box = self.draw(image.shape[0], image.shape[1], rng)
        if box is None:
            return image
        top, left, height, width = box
        image = image.copy()
        part = image[top : top + height, left : left + width]
        if self.fill == "noise":
            noise = rng.standard_normal(part.shape) * _STD + _MEAN
            part[...] = np.clip(np.rint(noise), 0, 255)
        else:
            part[...] = np.rint(_MEAN) if self.fill == "mean" else 0
        return image

    def draw(
        self, height: int, width: int, rng: np.random.Generator
    ) -> tuple[int, int, int, int] | None:
        """Returns top, left, height and width of the rectangle, or None if ten did not fit."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if rows < height and columns < width:
                top = int(rng.integers(height - rows + 1))
                return top, int(rng.integers(width - columns + 1)), rows, columns
        return None


def gaussian_blur(image: Image, sigma: float, *, kernel_size: int = 0) -> Image:
    """Returns the image blurred by a Gaussian.

    Args:
      image: RGB image, uint8 [height, width, 3].
      sigma: Standard deviation of the Gaussian, in pixels.
      kernel_size: Size of the kernel in pixels, odd; 0: as large as the Gaussian's width needs.
    """
    return cv2.GaussianBlur(image, (kernel_size, kernel_size), sigma)
