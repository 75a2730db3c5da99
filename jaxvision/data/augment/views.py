"""Several views of one image: to average what is predicted, or to learn what they have in common.

They are stacked, one below the other, so that a batch of them is a batch of images as any other.
"""

from dataclasses import dataclass

import numpy as np

from jaxvision.data.augment.compose import Compose
from jaxvision.data.augment.crops import CenterCrop
from jaxvision.data.types import Image, Transform

NUM_CROPS = 5


@dataclass(frozen=True)
class FiveCrops:
    """Cuts out the four corners and the middle, and stacks them: one image five times as high.

    Their order is torchvision's: top left, top right, bottom left, bottom right, middle.
    """

    size: tuple[int, int]

    def __call__(self, image: Image, rng: np.random.Generator | None = None) -> Image:
        """Returns the crops as one image of (5 x height, width)."""
        height, width = self.size
        middle = CenterCrop(self.size, pads=False)(image)
        bottom, right = image.shape[0] - height, image.shape[1] - width
        corners = [
            image[top : top + height, left : left + width]
            for top in (0, bottom)
            for left in (0, right)
        ]
        return np.concatenate([*corners, middle])


@dataclass(frozen=True)
class TwoViews:
    """Makes two views of an image, of one size, and stacks them: one image twice as high."""

    first: Transform
    second: Transform

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the first view above the second."""
        return np.concatenate([self.first(image, rng), self.second(image, rng)])


def with_views(transform: Transform, views: str) -> Transform:
    """Returns an evaluation's transform that gives the crops of some views.

    Args:
      transform: Transform of `eval_transform`, which ends with the crop of the middle.
      views: Name of the views, one of `options.run.VIEWS`; flips are made on the device and change
        nothing here.
    """
    if views not in ("five_crop", "ten_crop"):
        return transform
    assert isinstance(transform, Compose)
    *resize, crop = transform.operations
    assert isinstance(crop, CenterCrop)
    return Compose((*resize, FiveCrops(crop.size)))
