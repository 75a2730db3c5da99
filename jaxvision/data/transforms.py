"""Image operations on uint8 arrays, one dataclass each, and the chains that a config asks for.

Every operation is called as `op(image, rng)`. Those that draw nothing ignore `rng`, so that the
chain of an evaluation is called with None. No operation changes its input.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from jaxvision.data import color
from jaxvision.data.crops import PILLOW_FILTERS, CenterCrop, PadCrop, RandomResizedCrop, Resize
from jaxvision.data.image import Image, Transform, require_rng
from jaxvision.data.policies import RandAugment
from jaxvision.errors import InputError, check_choice


@dataclass(frozen=True)
class Compose:
    """Applies operations in turn."""

    operations: tuple[Transform, ...]

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image after all operations."""
        for operation in self.operations:
            image = operation(image, rng)
        return image


@dataclass(frozen=True)
class HorizontalFlip:
    """Swaps left and right with the given probability."""

    probability: float = 0.5

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image, perhaps mirrored."""
        rng = require_rng(rng)
        return cv2.flip(image, 1) if rng.random() < self.probability else image


@dataclass(frozen=True)
class VerticalFlip:
    """Swaps top and bottom with the given probability."""

    probability: float = 0.5

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image, perhaps upside down."""
        rng = require_rng(rng)
        return cv2.flip(image, 0) if rng.random() < self.probability else image


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


def _draw_factor(value: float, rng: np.random.Generator) -> float:
    return rng.uniform(max(0.0, 1 - value), 1 + value)


def train_transform(
    image_size: int | tuple[int, int],
    *,
    crop: str = "random_resized",
    crop_scale: tuple[float, float] = (0.08, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    crop_padding: int = 4,
    horizontal_flip: float = 0.5,
    vertical_flip: float = 0.0,
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
    rand_augment_layers: int = 0,
    rand_augment_magnitude: int = 9,
    interpolation: str = "bilinear",
) -> Compose:
    """Returns the operations of config.augment: crop, flips, RandAugment, colour jitter.

    Args:
      image_size: pixels of the output, one side or (height, width).
      crop: random_resized; pad (the image, resized to `image_size` if it has another size, with a
        border and cut at random); center (resized to cover `image_size`, the middle of it); none
        (the whole image, resized without keeping its aspect ratio).
      crop_scale: see RandomResizedCrop.
      crop_ratio: see RandomResizedCrop.
      crop_padding: pixels on each side, of `pad`.
      horizontal_flip: probability.
      vertical_flip: probability.
      color_jitter: brightness, contrast, saturation and hue; see ColorJitter.
      rand_augment_layers: operations per image; 0: off.
      rand_augment_magnitude: 0..30.
      interpolation: of every resize: bilinear | bicubic.

    Raises:
      InputError: for an unknown crop or interpolation, or a number out of its range.
    """
    size = _check_size(image_size)
    check_choice("data.interpolation", interpolation, tuple(PILLOW_FILTERS))
    for name, probability in (("horizontal", horizontal_flip), ("vertical", vertical_flip)):
        if not 0 <= probability <= 1:
            raise InputError(
                f"config.augment.{name}_flip is a probability in [0, 1], but is {probability}."
            )
    for name, pair in (("crop_scale", crop_scale), ("crop_ratio", crop_ratio)):
        greatest = 1.0 if name == "crop_scale" else math.inf
        if not _are_numbers(pair, 2) or not 0 < pair[0] <= pair[1] <= greatest:
            raise InputError(
                f"config.augment.{name} is (least, greatest), both above 0"
                + (" and at most 1" if name == "crop_scale" else "")
                + f", but is {tuple(pair)}."
            )
    if not _are_numbers(color_jitter, 4) or min(color_jitter) < 0 or color_jitter[3] > 0.5:
        raise InputError(
            "config.augment.color_jitter is (brightness, contrast, saturation, hue), each at least"
            f" 0 and the hue at most 0.5, but is {tuple(color_jitter)}."
        )
    crops: dict[str, tuple[Transform, ...]] = {
        "random_resized": (RandomResizedCrop(size, crop_scale, crop_ratio, interpolation),),
        "pad": (Resize(size, interpolation), PadCrop(size, crop_padding)),
        "center": (Resize(max(size), interpolation), CenterCrop(size)),
        "none": (Resize(size, interpolation),),
    }
    check_choice("augment.crop", crop, tuple(crops))
    operations = list(crops[crop])
    if horizontal_flip:
        operations.append(HorizontalFlip(horizontal_flip))
    if vertical_flip:
        operations.append(VerticalFlip(vertical_flip))
    if rand_augment_layers:
        operations.append(RandAugment(rand_augment_layers, rand_augment_magnitude))
    if any(color_jitter):
        operations.append(ColorJitter(*color_jitter))
    return Compose(tuple(operations))


def eval_transform(
    image_size: int | tuple[int, int], *, eval_resize: int = 256, interpolation: str = "bilinear"
) -> Compose:
    """Returns torchvision's evaluation: the short side to `eval_resize`, then the middle.

    Args:
      image_size: pixels of the output, one side or (height, width).
      eval_resize: pixels of the short side; 0: no resize.
      interpolation: bilinear | bicubic.

    Raises:
      InputError: for an unknown interpolation or a negative size.
    """
    size = _check_size(image_size)
    check_choice("data.interpolation", interpolation, tuple(PILLOW_FILTERS))
    if eval_resize < 0:
        raise InputError(f"config.data.eval_resize is pixels or 0, but is {eval_resize}.")
    crop = CenterCrop(size)
    return Compose((Resize(eval_resize, interpolation), crop) if eval_resize else (crop,))


def _check_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or min(size) < 1:
        raise InputError(
            "config.data.image_size is pixels or (height, width), each at least 1, but is"
            f" {image_size}."
        )
    return size


def _are_numbers(values: Any, count: int) -> bool:
    return len(values) == count and all(
        isinstance(value, (int, float)) and math.isfinite(value) for value in values
    )
