"""AutoAugment: pairs of operations that a search found for ImageNet, CIFAR-10 and SVHN."""

from dataclasses import dataclass

import numpy as np

from jaxvision.data.augment.operations import (
    AUTO_SPACE,
    Choices,
    Plan,
    apply_plan,
    check_interpolation,
)
from jaxvision.data.types import Image, require_rng
from jaxvision.errors import check_choice

# A line is one sub-policy: two times an operation, its probability and its magnitude of 0..9.
_TABLES = {
    "imagenet": """
        posterize 0.4 8, rotate 0.6 9
        solarize 0.6 5, autocontrast 0.6 -
        equalize 0.8 -, equalize 0.6 -
        posterize 0.6 7, posterize 0.6 6
        equalize 0.4 -, solarize 0.2 4
        equalize 0.4 -, rotate 0.8 8
        solarize 0.6 3, equalize 0.6 -
        posterize 0.8 5, equalize 1.0 -
        rotate 0.2 3, solarize 0.6 8
        equalize 0.6 -, posterize 0.4 6
        rotate 0.8 8, color 0.4 0
        rotate 0.4 9, equalize 0.6 -
        equalize 0.0 -, equalize 0.8 -
        invert 0.6 -, equalize 1.0 -
        color 0.6 4, contrast 1.0 8
        rotate 0.8 8, color 1.0 2
        color 0.8 8, solarize 0.8 7
        sharpness 0.4 7, invert 0.6 -
        shear_x 0.6 5, equalize 1.0 -
        color 0.4 0, equalize 0.6 -
        equalize 0.4 -, solarize 0.2 4
        solarize 0.6 5, autocontrast 0.6 -
        invert 0.6 -, equalize 1.0 -
        color 0.6 4, contrast 1.0 8
        equalize 0.8 -, equalize 0.6 -
    """,
    "cifar10": """
        invert 0.1 -, contrast 0.2 6
        rotate 0.7 2, translate_x 0.3 9
        sharpness 0.8 1, sharpness 0.9 3
        shear_y 0.5 8, translate_y 0.7 9
        autocontrast 0.5 -, equalize 0.9 -
        shear_y 0.2 7, posterize 0.3 7
        color 0.4 3, brightness 0.6 7
        sharpness 0.3 9, brightness 0.7 9
        equalize 0.6 -, equalize 0.5 -
        contrast 0.6 7, sharpness 0.6 5
        color 0.7 7, translate_x 0.5 8
        equalize 0.3 -, autocontrast 0.4 -
        translate_y 0.4 3, sharpness 0.2 6
        brightness 0.9 6, color 0.2 8
        solarize 0.5 2, invert 0.0 -
        equalize 0.2 -, autocontrast 0.6 -
        equalize 0.2 -, equalize 0.6 -
        color 0.9 9, equalize 0.6 -
        autocontrast 0.8 -, solarize 0.2 8
        brightness 0.1 3, color 0.7 0
        solarize 0.4 5, autocontrast 0.9 -
        translate_y 0.9 9, translate_y 0.7 9
        autocontrast 0.9 -, solarize 0.8 3
        equalize 0.8 -, invert 0.1 -
        translate_y 0.7 9, autocontrast 0.9 -
    """,
    "svhn": """
        shear_x 0.9 4, invert 0.2 -
        shear_y 0.9 8, invert 0.7 -
        equalize 0.6 -, solarize 0.6 6
        invert 0.9 -, equalize 0.6 -
        equalize 0.6 -, rotate 0.9 3
        shear_x 0.9 4, autocontrast 0.8 -
        shear_y 0.9 8, invert 0.4 -
        shear_y 0.9 5, solarize 0.2 6
        invert 0.9 -, autocontrast 0.8 -
        equalize 0.6 -, rotate 0.9 3
        shear_x 0.9 4, solarize 0.3 3
        shear_y 0.8 8, invert 0.7 -
        equalize 0.9 -, translate_y 0.6 6
        invert 0.9 -, equalize 0.6 -
        contrast 0.3 3, rotate 0.8 4
        invert 0.8 -, translate_y 0.0 2
        shear_y 0.7 6, solarize 0.4 8
        invert 0.6 -, rotate 0.8 4
        shear_y 0.3 7, translate_x 0.9 3
        shear_x 0.1 6, invert 0.6 -
        solarize 0.7 2, translate_y 0.6 7
        shear_y 0.8 4, invert 0.8 -
        shear_x 0.7 9, translate_y 0.8 3
        shear_y 0.8 5, autocontrast 0.7 -
        shear_x 0.7 2, invert 0.1 -
    """,
}


def _parse(table: str) -> tuple[Plan, ...]:
    return tuple(
        tuple(
            (name, float(probability), 0 if magnitude == "-" else int(magnitude))
            for name, probability, magnitude in (step.split() for step in line.split(","))
        )
        for line in table.strip().splitlines()
    )


POLICIES = {name: _parse(table) for name, table in _TABLES.items()}


@dataclass(frozen=True)
class AutoAugment:
    """Applies one of 25 pairs of operations, each of the two with its own probability.

    Tables, strengths and pixels are torchvision's on PIL images.

    Args:
      policy: Data that the pairs were found for: imagenet | cifar10 | svhn.
      interpolation: Interpolation of the warps: nearest (torchvision's default) | bilinear |
        bicubic.

    Raises:
      InputError: for an unknown policy or interpolation.

    Source: Cubuk et al. 2018, AutoAugment, https://arxiv.org/abs/1805.09501, tables 7-9.
    """

    policy: str = "imagenet"
    interpolation: str = "nearest"

    def __post_init__(self):
        check_choice("AutoAugment.policy", self.policy, tuple(POLICIES))
        check_interpolation("AutoAugment", self.interpolation)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image, perhaps changed."""
        rng, choices = require_rng(rng), self.choices
        plan = choices.plans[rng.integers(len(choices.plans))]
        return apply_plan(image, plan, choices.space, rng, interpolation=self.interpolation)

    @property
    def choices(self) -> Choices:
        """What is chosen from: the 25 pairs."""
        return Choices(AUTO_SPACE, POLICIES[self.policy])
