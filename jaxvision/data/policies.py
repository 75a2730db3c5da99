"""RandAugment: a few random operations of one common strength."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import PIL.Image

from jaxvision.data import color
from jaxvision.data.image import Image, require_rng
from jaxvision.errors import InputError

_BINS = 31  # magnitudes 0..30
_RESAMPLING = {
    "nearest": PIL.Image.Resampling.NEAREST,
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class RandAugment:
    """Applies `layers` operations, each drawn anew from the 14 of torchvision's RandAugment.

    The operations, their strengths at each magnitude and their pixels are torchvision's on PIL
    images; what leaves the image is filled with black.

    Args:
      layers: operations per image, at least 1 ("N" in the paper).
      magnitude: 0..30 ("M"); half of the signed operations go the other way.
      interpolation: of shear, translation and rotation: nearest (torchvision's default) |
        bilinear | bicubic.

    Raises:
      InputError: if the magnitude is outside 0..30, or there are no layers.

    Source: Cubuk et al. 2019, RandAugment, https://arxiv.org/abs/1909.13719.
    """

    layers: int = 2
    magnitude: int = 9
    interpolation: str = "nearest"

    def __post_init__(self):
        if not 0 <= self.magnitude < _BINS or self.layers < 1:
            raise InputError(
                "RandAugment takes at least 1 layer and a magnitude of 0..30, but got"
                f" layers={self.layers}, magnitude={self.magnitude}."
            )

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the changed image."""
        rng = require_rng(rng)
        names = list(OPERATIONS)
        for _ in range(self.layers):
            name = names[rng.integers(len(names))]
            strength = operation_strength(name, self.magnitude, image.shape[0], image.shape[1])
            if name in _SIGNED and rng.integers(2):
                strength = -strength
            image = apply_operation(image, name, strength, interpolation=self.interpolation)
        return image


def apply_operation(
    image: Image, name: str, strength: float, *, interpolation: str = "nearest"
) -> Image:
    """Returns the image after one operation; a name of `OPERATIONS` and its signed strength."""
    return OPERATIONS[name](image, strength, interpolation)


def operation_strength(name: str, magnitude: int, height: int, width: int) -> float:
    """Returns the strength that a magnitude of 0..30 means for one operation on one image size."""
    if name == "posterize":
        return float(8 - round(magnitude / ((_BINS - 1) / 4)))
    if name == "solarize":
        return 255.0 - 255.0 * magnitude / (_BINS - 1)
    ends = {
        "shear_x": 0.3,
        "shear_y": 0.3,
        "translate_x": 150.0 / 331.0 * width,
        "translate_y": 150.0 / 331.0 * height,
        "rotate": 30.0,
        "brightness": 0.9,
        "color": 0.9,
        "contrast": 0.9,
        "sharpness": 0.9,
    }
    return ends[name] * magnitude / (_BINS - 1) if name in ends else 0.0


def _affine(image: np.ndarray, matrix: tuple[float, ...], interpolation: str) -> np.ndarray:
    """Returns the image whose pixel (x, y) is the input's at (a x + b y + c, d x + e y + f)."""
    picture = PIL.Image.fromarray(image)
    return np.asarray(
        picture.transform(
            picture.size, PIL.Image.Transform.AFFINE, matrix, _RESAMPLING[interpolation]
        )
    )


def _translate(image: np.ndarray, x: float, y: float, interpolation: str) -> np.ndarray:
    whole_x, whole_y = float(int(x)), float(int(y))
    return _affine(image, (1.0, 0.0, -whole_x, 0.0, 1.0, -whole_y), interpolation)


def _rotate(image: np.ndarray, degrees: float, interpolation: str) -> np.ndarray:
    return np.asarray(PIL.Image.fromarray(image).rotate(degrees, _RESAMPLING[interpolation]))


def _shear_angle(strength: float) -> float:
    """Returns the angle in torchvision's rounding, whose last bit decides a pixel at the border."""
    return math.radians(math.degrees(math.atan(strength)))


def _shear_x(image: np.ndarray, strength: float, interpolation: str) -> np.ndarray:
    slope = math.tan(_shear_angle(strength))
    return _affine(image, (1.0, slope, 0.0, 0.0, 1.0, 0.0), interpolation)


def _shear_y(image: np.ndarray, strength: float, interpolation: str) -> np.ndarray:
    angle = _shear_angle(strength)
    slope = math.sin(angle) / math.cos(angle)
    return _affine(image, (1.0, 0.0, 0.0, slope, 1.0, 0.0), interpolation)


# Name: function of image, strength and interpolation.
OPERATIONS: dict[str, Callable[[np.ndarray, float, str], np.ndarray]] = {
    "identity": lambda image, _, __: image,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": lambda image, s, mode: _translate(image, s, 0.0, mode),
    "translate_y": lambda image, s, mode: _translate(image, 0.0, s, mode),
    "rotate": _rotate,
    "brightness": lambda image, s, _: color.adjust_brightness(image, 1 + s),
    "color": lambda image, s, _: color.adjust_saturation(image, 1 + s),
    "contrast": lambda image, s, _: color.adjust_contrast(image, 1 + s),
    "sharpness": lambda image, s, _: color.adjust_sharpness(image, 1 + s),
    "posterize": lambda image, s, _: color.posterize(image, int(s)),
    "solarize": lambda image, s, _: color.solarize(image, s),
    "autocontrast": lambda image, _, __: color.autocontrast(image),
    "equalize": lambda image, _, __: color.equalize(image),
}
_SIGNED = frozenset(
    ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
    + ("brightness", "color", "contrast", "sharpness")
)
