"""Whole recipes of operations on one training image, by name: config.augment.preset.

Mixup and cutmix blend whole batches on the device, so that they are options beside a preset. The
source of each preset says what its recipe mixes.
"""

from collections.abc import Callable

from jaxvision.data.augment.compose import Compose, OneOf, Sometimes
from jaxvision.data.augment.crops import RandomResizedCrop
from jaxvision.data.augment.geometry import HorizontalFlip, Rotation, ShiftScaleRotate, VerticalFlip
from jaxvision.data.augment.jitter import (
    ColorJitter,
    Grayscale,
    HueSaturationValue,
    RandomBrightnessContrast,
    Solarize,
)
from jaxvision.data.augment.noise import GaussianBlur, GaussianNoise, IsoNoise, RandomErasing
from jaxvision.data.augment.policies import RandAugment, TrivialAugment
from jaxvision.data.augment.timm_rand_augment import TimmRandAugment
from jaxvision.data.augment.views import TwoViews
from jaxvision.data.types import Transform

_MOST = (0.8, 1.0)  # share of the area that a careful crop keeps


def basic(size: tuple[int, int], interpolation: str) -> Compose:
    """Returns mild changes of place and colour, enough for large data."""
    return Compose(
        (
            RandomResizedCrop(size, scale=_MOST, interpolation=interpolation),
            HorizontalFlip(0.5),
            VerticalFlip(0.1),
            Rotation(15.0),
            ColorJitter(0.2, 0.2, 0.2, 0.1),
            Grayscale(0.1),
            GaussianBlur(kernel_size=3, sigma=(0.1, 2.0)),
        )
    )


def recommended(size: tuple[int, int], interpolation: str) -> Compose:
    """Returns a careful crop, a flip and RandAugment(2, 9); the recipe adds mixup 0.2."""
    return Compose(
        (
            RandomResizedCrop(size, scale=_MOST, interpolation=interpolation),
            HorizontalFlip(0.5),
            RandAugment(layers=2, magnitude=9),
        )
    )


def deit(size: tuple[int, int], interpolation: str) -> Compose:
    """Returns the operations of DeiT; the recipe adds mixup 0.8 and cutmix 1, and is bicubic.

    Source: Touvron et al. 2021, Training data-efficient image transformers, table 9.
    """
    return Compose(
        (
            RandomResizedCrop(size, interpolation=interpolation),
            HorizontalFlip(0.5),
            TimmRandAugment(layers=2, magnitude=9.0, deviation=0.5),
            RandomErasing(0.25, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), fill="noise"),
        )
    )


def torchvision_v2(size: tuple[int, int], interpolation: str) -> Compose:
    """Returns the operations of torchvision's newer weights; they add mixup 0.2 and cutmix 1.

    Source: https://pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives/.
    """
    return Compose(
        (
            RandomResizedCrop(size, interpolation=interpolation),
            HorizontalFlip(0.5),
            TrivialAugment(interpolation="bilinear"),
            RandomErasing(0.1),
        )
    )


def small_data(size: tuple[int, int], interpolation: str) -> Compose:
    """Returns strong and varied changes, for a few thousand images.

    The crop comes first, so that the time of the rest does not depend on the size of the files.
    """
    colors = (
        ColorJitter(0.2, 0.2, 0.2),
        HueSaturationValue(hue=20.0, saturation=30.0),
        RandomBrightnessContrast(),
    )
    noises = (
        GaussianBlur(kernel_size=3, probability=1.0),
        GaussianNoise(variance=(10.0, 50.0), probability=1.0),
        IsoNoise(probability=1.0),
    )
    return Compose(
        (
            RandomResizedCrop(size, interpolation=interpolation),
            HorizontalFlip(0.5),
            ShiftScaleRotate(shift=0.1, scale=0.2, degrees=15.0, probability=0.5),
            OneOf(colors, probability=0.5),
            OneOf(noises, probability=0.3),
        )
    )


def moco_v3(size: tuple[int, int], interpolation: str, crop_scale: tuple[float, float]) -> Compose:
    """Returns the two views of MoCo v3, which are BYOL's: all of the first are blurred.

    The blur is that of 224 pixels, less on smaller images.

    Args:
      size: Size of a view (height, width), in pixels.
      interpolation: Interpolation of the crop's resize.
      crop_scale: Range of the share of the area that the crops keep.

    Source: Chen et al. 2021, An Empirical Study of Training Self-Supervised Vision Transformers,
      appendix A; Grill et al. 2020, Bootstrap your own latent, table 6.
    """
    scale = min(1.0, min(size) / 224)

    def view(blur: float, *further: Transform) -> Compose:
        return Compose(
            (
                RandomResizedCrop(size, scale=crop_scale, interpolation=interpolation),
                Sometimes(ColorJitter(0.4, 0.4, 0.2, 0.1), 0.8),
                Grayscale(0.2),
                GaussianBlur(0, sigma=(0.1 * scale, 2.0 * scale), probability=blur),
                *further,
                HorizontalFlip(0.5),
            )
        )

    return Compose((TwoViews(view(1.0), view(0.1, Sometimes(Solarize(128.0), 0.2))),))


PRESETS: dict[str, Callable[[tuple[int, int], str], Compose]] = {
    "basic": basic,
    "recommended": recommended,
    "deit": deit,
    "torchvision_v2": torchvision_v2,
    "small_data": small_data,
}
