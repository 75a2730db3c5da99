"""Operations made of others: one after the other, one of several, now and then."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxvision.data.decode import Photo
from jaxvision.data.types import Image, Transform, require_rng
from jaxvision.errors import InputError
from jaxvision.options.checks import check_probability


@dataclass(frozen=True)
class Compose:
    """Applies operations in turn."""

    operations: tuple[Transform, ...]

    def __call__(self, image: Image | Photo, rng: np.random.Generator | None) -> Image:
        """Returns the image after all operations; of a photo, the first one must decode it."""
        result: Any = image
        for operation in self.operations:
            result = operation(result, rng)
        return result


@dataclass(frozen=True)
class OneOf:
    """Applies one of the operations, each as likely as the others, with the given probability.

    Raises:
      InputError: if there is no operation, or the probability is outside [0, 1].
    """

    operations: tuple[Transform, ...]
    probability: float = 1.0

    def __post_init__(self):
        check_probability("OneOf.probability", self.probability)
        if not self.operations:
            raise InputError("OneOf chooses among operations, but got none.")

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image after the chosen operation, or as it is."""
        rng = require_rng(rng)
        if rng.random() >= self.probability:
            return image
        return self.operations[rng.integers(len(self.operations))](image, rng)


@dataclass(frozen=True)
class Sometimes:
    """Applies an operation with the given probability.

    Raises:
      InputError: if the probability is outside [0, 1].
    """

    operation: Transform
    probability: float = 0.5

    def __post_init__(self):
        check_probability("Sometimes.probability", self.probability)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image after the operation, or as it is."""
        rng = require_rng(rng)
        return self.operation(image, rng) if rng.random() < self.probability else image
