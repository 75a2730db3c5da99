"""timm's RandAugment (`rand-m9-mstd0.5-inc1`), whose operations are not torchvision's."""

from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image

from jaxvision.data.augment import color
from jaxvision.data.types import Image, require_rng
from jaxvision.errors import InputError
from jaxvision.options.checks import check_probability

_GREATEST = 10.0  # magnitude
_FILL = (124, 116, 104)  # ImageNet's mean colour
_FILTERS = (PIL.Image.Resampling.BILINEAR, PIL.Image.Resampling.BICUBIC)
TIMM_SIGNED = frozenset(
    ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    + ("color", "contrast", "brightness", "sharpness")
)
TIMM_OPERATIONS = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add"),
    *("color", "contrast", "brightness", "sharpness"),
    *("shear_x", "shear_y", "translate_x", "translate_y"),
)


@dataclass(frozen=True)
class TimmRandAugment:
    """Draws `layers` operations, and applies each with probability 1/2.

    A magnitude is drawn anew for each. What leaves the image is filled with the mean colour of
    ImageNet, and a warp is bilinear or bicubic at random.

    Args:
      layers: Number of operations drawn per image, at least 1.
      magnitude: Mean of the magnitudes, 0..10.
      deviation: Standard deviation of the magnitudes, which are cut to 0..10.
      probability: Probability that a drawn operation is applied.

    Raises:
      InputError: for a number out of its range.

    Source: timm.data.auto_augment, as DeiT, Swin and ConvNeXt were trained with it.
    """

    layers: int = 2
    magnitude: float = 9.0
    deviation: float = 0.5
    probability: float = 0.5

    def __post_init__(self):
        if not 0 <= self.magnitude <= _GREATEST or self.layers < 1 or not 0 <= self.deviation:
            raise InputError(
                "TimmRandAugment takes at least 1 layer, a magnitude of 0..10 and a deviation of at"
                f" least 0, but got layers={self.layers}, magnitude={self.magnitude},"
                f" deviation={self.deviation}."
            )
        check_probability("TimmRandAugment.probability", self.probability)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the changed image."""
        rng = require_rng(rng)
        for _ in range(self.layers):
            name = TIMM_OPERATIONS[rng.integers(len(TIMM_OPERATIONS))]
            if rng.random() >= self.probability:
                continue
            magnitude = min(max(rng.normal(self.magnitude, self.deviation), 0.0), _GREATEST)
            sign = -1 if name in TIMM_SIGNED and rng.integers(2) else 1
            image = apply_timm_operation(
                image, name, sign * magnitude, resampling=_FILTERS[rng.integers(2)]
            )
        return image


def apply_timm_operation(
    image: Image,
    name: str,
    magnitude: float,
    *,
    resampling: PIL.Image.Resampling = PIL.Image.Resampling.BILINEAR,
) -> Image:
    """Returns the image after one of `TIMM_OPERATIONS`; magnitudes -10..10, signed where it is."""
    share = magnitude / _GREATEST
    height, width = image.shape[:2]
    if name in ("color", "contrast", "brightness", "sharpness"):
        adjust = getattr(color, f"adjust_{name}" if name != "color" else "adjust_saturation")
        return adjust(image, max(0.1, 1 + 0.9 * share))
    match name:
        case "autocontrast" | "equalize" | "invert":
            return getattr(color, name)(image)
        case "posterize":
            return color.posterize(image, 4 - int(share * 4))
        case "solarize":
            return color.solarize(image, 256.0 - int(share * 256))
        case "solarize_add":
            levels = np.arange(256)
            added = np.minimum(levels + int(share * 110), 255)
            return cv2.LUT(image, np.where(levels < 128, added, levels).astype(np.uint8))
        case "rotate":
            picture = PIL.Image.fromarray(image)
            return np.asarray(picture.rotate(30 * share, resampling, fillcolor=_FILL))
        case "shear_x":
            matrix = (1, 0.3 * share, 0, 0, 1, 0)
        case "shear_y":
            matrix = (1, 0, 0, 0.3 * share, 1, 0)
        case "translate_x":
            matrix = (1, 0, 0.45 * share * width, 0, 1, 0)
        case _:
            matrix = (1, 0, 0, 0, 1, 0.45 * share * height)
    picture = PIL.Image.fromarray(image)
    return np.asarray(
        picture.transform(
            picture.size, PIL.Image.Transform.AFFINE, matrix, resampling, fillcolor=_FILL
        )
    )
