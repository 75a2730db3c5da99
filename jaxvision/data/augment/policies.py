"""Random policies: RandAugment, TrivialAugment, AugMix and 3-Augment; AutoAugment has its file."""

from dataclasses import dataclass

import numpy as np

from jaxvision.data.augment.compose import OneOf
from jaxvision.data.augment.jitter import Grayscale, Solarize
from jaxvision.data.augment.noise import GaussianBlur
from jaxvision.data.augment.operations import (
    MIX_SPACE,
    OPERATIONS,
    RAND_SPACE,
    WIDE_SPACE,
    Choices,
    apply_plan,
    check_interpolation,
)
from jaxvision.data.types import Image, require_rng
from jaxvision.errors import InputError

_COMMON = tuple(name for name in OPERATIONS if name != "invert")
_MIXED = tuple(name for name in _COMMON if name != "identity")
_TRIVIAL_PLANS = tuple(
    ((name, None, magnitude),) for name in _COMMON for magnitude in range(WIDE_SPACE.bins)
)


@dataclass(frozen=True)
class RandAugment:
    """Applies `layers` operations, each drawn anew from the 14 of torchvision's RandAugment.

    The operations, their strengths at each magnitude and their pixels are torchvision's on PIL
    images; what leaves the image is filled with black.

    Args:
      layers: Number of operations per image, at least 1 ("N" in the paper).
      magnitude: Magnitude of the operations, 0..30 ("M"); half of the signed ones go the other way.
      interpolation: Interpolation of shear, translation and rotation: nearest (torchvision's
        default) | bilinear | bicubic.

    Raises:
      InputError: if the magnitude is outside 0..30, or there are no layers.

    Note: timm's magnitudes are 0..10, so that its `m9` is near the greatest here.

    Source: Cubuk et al. 2019, RandAugment, https://arxiv.org/abs/1909.13719.
    """

    layers: int = 2
    magnitude: int = 9
    interpolation: str = "nearest"

    def __post_init__(self):
        if not 0 <= self.magnitude < RAND_SPACE.bins or self.layers < 1:
            raise InputError(
                "RandAugment takes at least 1 layer and a magnitude of 0..30, but got"
                f" layers={self.layers}, magnitude={self.magnitude}."
            )
        check_interpolation("RandAugment", self.interpolation)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the changed image."""
        rng, choices = require_rng(rng), self.choices
        for _ in range(choices.rounds):
            plan = choices.plans[rng.integers(len(choices.plans))]
            image = apply_plan(image, plan, choices.space, rng, interpolation=self.interpolation)
        return image

    @property
    def choices(self) -> Choices:
        """What is chosen from: each operation, always, at the one magnitude."""
        plans = tuple(((name, None, self.magnitude),) for name in _COMMON)
        return Choices(RAND_SPACE, plans, rounds=self.layers)


@dataclass(frozen=True)
class TrivialAugment:
    """Applies one operation of any strength, from the wide range: nothing has to be tuned.

    The operations are RandAugment's, the strengths torchvision's TrivialAugmentWide's.

    Args:
      interpolation: Interpolation of the warps: nearest (torchvision's default) | bilinear |
        bicubic.

    Source: Müller and Hutter 2021, TrivialAugment, https://arxiv.org/abs/2103.10158.
    """

    interpolation: str = "nearest"

    def __post_init__(self):
        check_interpolation("TrivialAugment", self.interpolation)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the changed image."""
        rng, choices = require_rng(rng), self.choices
        number = int(rng.integers(len(_COMMON)))
        plan = choices.plans[number * WIDE_SPACE.bins + int(rng.integers(WIDE_SPACE.bins))]
        return apply_plan(image, plan, choices.space, rng, interpolation=self.interpolation)

    @property
    def choices(self) -> Choices:
        """What is chosen from: each operation at each magnitude, always."""
        return Choices(WIDE_SPACE, _TRIVIAL_PLANS)


@dataclass(frozen=True)
class AugMix:
    """Blends the image with several of its versions, each after a short chain of operations.

    Args:
      severity: Upper bound of the operations' magnitudes, 1..10; each is drawn below it.
      width: Number of chains, at least 1.
      depth: Number of operations in a chain; 0: 1..3, drawn for each chain.
      alpha: Parameter of the Dirichlet and Beta distributions of the weights.
      interpolation: Interpolation of the warps: nearest | bilinear (torchvision's default) |
        bicubic.

    Raises:
      InputError: for a number out of its range.

    Note: the loss of the paper that compares three versions of an image is no part of it.

    Source: Hendrycks et al. 2019, AugMix, https://arxiv.org/abs/1912.02781; spaces, brightness and
      the other colour operations as in torchvision.
    """

    severity: int = 3
    width: int = 3
    depth: int = 0
    alpha: float = 1.0
    interpolation: str = "bilinear"

    def __post_init__(self):
        if not 1 <= self.severity <= MIX_SPACE.bins or min(self.width, self.depth + 1) < 1:
            raise InputError(
                "AugMix takes a severity of 1..10, a width of at least 1 and a depth of at least 0,"
                f" but got severity={self.severity}, width={self.width}, depth={self.depth}."
            )
        if not 0 < self.alpha < 1e6:
            raise InputError(f"AugMix.alpha must be above 0, got {self.alpha}.")
        check_interpolation("AugMix", self.interpolation)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the blend."""
        rng, choices = require_rng(rng), self.choices
        share = rng.beta(self.alpha, self.alpha)  # of the versions together
        weights = share * rng.dirichlet([self.alpha] * self.width)
        blend = np.multiply(image, np.float32(1 - share), dtype=np.float32)
        for weight in weights:
            version = image
            for _ in range(self.depth or int(rng.integers(1, 4))):
                number = int(rng.integers(len(_MIXED)))
                plan = choices.plans[number * self.severity + int(rng.integers(self.severity))]
                version = apply_plan(
                    version, plan, choices.space, rng, interpolation=self.interpolation
                )
            blend += version * np.float32(weight)
        return np.rint(blend).astype(np.uint8)

    @property
    def choices(self) -> Choices:
        """What each operation of a chain is chosen from: each at each magnitude, always."""
        return Choices(
            MIX_SPACE,
            tuple(((name, None, mag),) for name in _MIXED for mag in range(self.severity)),
        )


def three_augment() -> OneOf:
    """Returns 3-Augment: one of greyscale, solarization and Gaussian blur.

    Source: Touvron et al. 2022, DeiT III, https://arxiv.org/abs/2204.07118, section 3.3; a mild
      ColorJitter(0.3, 0.3, 0.3) follows there.
    """
    return OneOf(
        (
            Grayscale(probability=1.0),
            Solarize(threshold=128.0),
            GaussianBlur(kernel_size=0, sigma=(0.1, 2.0), probability=1.0),
        )
    )
