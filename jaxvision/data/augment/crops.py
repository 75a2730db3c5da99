"""Operations that change the size of an image: resizes and crops."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image

from jaxvision.data.decode import Photo
from jaxvision.data.types import Image, require_rng
from jaxvision.errors import InputError

PILLOW_FILTERS = {
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
    "nearest": PIL.Image.Resampling.NEAREST,
    "lanczos": PIL.Image.Resampling.LANCZOS,
}
_OPENCV_FILTERS = {
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST,
    "lanczos": cv2.INTER_LANCZOS4,
}


@dataclass(frozen=True)
class Resize:
    """Resizes with antialiasing, bit for bit as torchvision does a PIL image.

    An int is the short side and keeps the aspect ratio, rounding the long side down; a pair is
    (height, width), or with `covers` what the image shall just cover at its own aspect ratio.
    """

    size: int | tuple[int, int]
    interpolation: str = "bilinear"
    covers: bool = False

    def __call__(self, image: Image, rng: np.random.Generator | None = None) -> Image:
        """Returns the resized image."""
        height, width = image.shape[:2]
        pair = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        new_height, new_width = pair
        if self.covers or self.size != pair:
            if width * new_height <= height * new_width:
                new_height = int(new_width * height / width)
            else:
                new_width = int(new_height * width / height)
        if (new_height, new_width) == (height, width):
            return image
        picture = PIL.Image.fromarray(image)
        return np.asarray(
            picture.resize((new_width, new_height), PILLOW_FILTERS[self.interpolation])
        )


@dataclass(frozen=True)
class CenterCrop:
    """Cuts out the middle; an image that is too small gets a black border first, or is refused.

    Offsets and borders are rounded as in torchvision.
    """

    size: tuple[int, int]
    pads: bool = True

    def __call__(self, image: Image, rng: np.random.Generator | None = None) -> Image:
        """Returns the middle of the image."""
        height, width = self.size
        if not self.pads and (height > image.shape[0] or width > image.shape[1]):
            raise InputError(
                f"An image of {image.shape[0]} x {image.shape[1]} pixels does not fill an "
                f"image_size of {height} x {width}: leave out --config.data.eval_resize=0, so that "
                "it is resized, or give a smaller --config.data.image_size."
            )
        missing_rows = max(height - image.shape[0], 0)
        missing_columns = max(width - image.shape[1], 0)
        if missing_rows or missing_columns:
            image = cv2.copyMakeBorder(
                image,
                missing_rows // 2, (missing_rows + 1) // 2,
                missing_columns // 2, (missing_columns + 1) // 2,
                cv2.BORDER_CONSTANT,
            )  # fmt: skip
        top = round((image.shape[0] - height) / 2)
        left = round((image.shape[1] - width) / 2)
        return image[top : top + height, left : left + width]


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts out a random part of random area and aspect ratio, and resizes it to `size`.

    The part is drawn by torchvision's rule. For speed it is resized by OpenCV: where it is at least
    twice the output, whole boxes of pixels are averaged first; the rest, less than twofold, is
    interpolated without antialiasing.

    Args:
      size: Size of the output in pixels, (height, width).
      scale: Range of the part's share of the area.
      ratio: Range of the part's width / height.
      interpolation: Interpolation of the resize: bilinear | bicubic | nearest | lanczos.
      antialias: Whether the part is resized as torchvision does a PIL image, bit for bit; several
        times as slow.

    Source: Szegedy et al. 2015, Going deeper with convolutions, section 6.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    antialias: bool = False

    def __call__(self, image: Image | Photo, rng: np.random.Generator | None) -> Image:
        """Returns the random part; of a photo, with edges at whole pixels of its reduced size."""
        rng = require_rng(rng)
        place = self.draw(image.shape[0], image.shape[1], rng)
        if isinstance(image, Photo):
            image, factor = image.reduced(min(place[2] // self.size[0], place[3] // self.size[1]))
            place = tuple(pixels // factor for pixels in place)
        top, left, height, width = place
        part = image[top : top + height, left : left + width]
        if self.antialias:
            return Resize(self.size, self.interpolation)(part)
        return _resize_fast(part, self.size, self.interpolation)

    def draw(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Returns top, left, height and width of the part, in pixels."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            part_width = round(math.sqrt(area * ratio))
            part_height = round(math.sqrt(area / ratio))
            if 0 < part_width <= width and 0 < part_height <= height:
                top = int(rng.integers(height - part_height + 1))
                left = int(rng.integers(width - part_width + 1))
                return top, left, part_height, part_width
        # No part fits: the largest one in the middle whose aspect ratio is within the range.
        part_height, part_width = height, width
        if width / height < self.ratio[0]:
            part_height = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            part_width = round(height * self.ratio[1])
        return (height - part_height) // 2, (width - part_width) // 2, part_height, part_width


def _resize_fast(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Returns the image at another size, box-averaged by whole factors and then interpolated.

    Averaging all the way (INTER_AREA) would be closer to Pillow's antialiased result (0.5 grey
    levels on average instead of 1.0), but takes four times as long, half as long as decoding.
    """
    rows, columns = max(image.shape[0] // size[0], 1), max(image.shape[1] // size[1], 1)
    if rows > 1 or columns > 1:
        height, width = image.shape[0] // rows, image.shape[1] // columns
        image = image[: height * rows, : width * columns]  # less than one box is lost
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (size[1], size[0]), interpolation=_OPENCV_FILTERS[interpolation])


@dataclass(frozen=True)
class PadCrop:
    """Adds a border and cuts out a random part of the given size: the crop of CIFAR recipes.

    The border is black, or with `reflects` the image mirrored at its outermost pixels.

    Source: He et al. 2016, Deep residual learning, section 4.2.
    """

    size: tuple[int, int]
    padding: int = 4
    reflects: bool = False

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the random part."""
        rng = require_rng(rng)
        p = self.padding
        border = cv2.BORDER_REFLECT_101 if self.reflects else cv2.BORDER_CONSTANT
        image = cv2.copyMakeBorder(image, p, p, p, p, border)
        top = int(rng.integers(image.shape[0] - self.size[0] + 1))
        left = int(rng.integers(image.shape[1] - self.size[1] + 1))
        return image[top : top + self.size[0], left : left + self.size[1]]
