"""Operations that move pixels and keep the image's size: flips, rotation, affine, perspective.

Nearest and bilinear warps sample where torchvision's do on tensors; a pixel differs by one level at
most.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from jaxvision.data.types import Image, require_rng
from jaxvision.errors import check_choice
from jaxvision.options.checks import check_interval, check_limits, check_probability

_FILTERS = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR}
_BORDERS = {"black": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}


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
class Rotation:
    """Turns the image about its centre by an angle from [-degrees, degrees].

    Args:
      degrees: Largest angle, in degrees.
      interpolation: Interpolation of the warp: nearest | bilinear.
      border: Fill of the empty corners: black | reflect (the image mirrored).

    Raises:
      InputError: for a number out of its range or an unknown choice.
    """

    degrees: float = 15.0
    interpolation: str = "bilinear"
    border: str = "black"

    def __post_init__(self):
        check_limits("Rotation.degrees", (self.degrees,), {"degrees": 180.0})
        check_warp("Rotation", self.interpolation, self.border)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the turned image."""
        degrees = require_rng(rng).uniform(-self.degrees, self.degrees)
        return affine(image, degrees=degrees, interpolation=self.interpolation, border=self.border)


@dataclass(frozen=True)
class Affine:
    """Turns, shifts, scales and shears the image about its centre, as torchvision's RandomAffine.

    Args:
      degrees: Largest angle of the rotation, in degrees.
      translate: Largest shift to each side, as a share of (width, height); whole pixels are drawn.
      scale: Range of the scaling factor.
      shear: Largest shear angles along (x, y), in degrees.
      interpolation: Interpolation of the warp: nearest | bilinear.
      border: Fill of the empty areas: black | reflect (the image mirrored).

    Raises:
      InputError: for a number out of its range or an unknown choice.
    """

    degrees: float = 0.0
    translate: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    shear: tuple[float, float] = (0.0, 0.0)
    interpolation: str = "bilinear"
    border: str = "black"

    def __post_init__(self):
        check_limits("Affine.degrees", (self.degrees,), {"degrees": 180.0})
        check_limits("Affine.translate", self.translate, {"x": 1.0, "y": 1.0})
        check_interval("Affine.scale", self.scale, least=1e-3)
        check_limits("Affine.shear", self.shear, {"x": 89.0, "y": 89.0})
        check_warp("Affine", self.interpolation, self.border)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the moved image."""
        rng = require_rng(rng)
        height, width = image.shape[:2]
        limit_x, limit_y = self.translate[0] * width, self.translate[1] * height
        return affine(
            image,
            degrees=-rng.uniform(-self.degrees, self.degrees),
            translate=(
                float(round(rng.uniform(-limit_x, limit_x))),
                float(round(rng.uniform(-limit_y, limit_y))),
            ),
            scale=rng.uniform(*self.scale),
            shear=(
                rng.uniform(-self.shear[0], self.shear[0]),
                rng.uniform(-self.shear[1], self.shear[1]),
            ),
            interpolation=self.interpolation,
            border=self.border,
        )


@dataclass(frozen=True)
class ShiftScaleRotate:
    """Shifts, scales and turns the image with the given probability, as in Albumentations.

    Args:
      shift: Largest shift, as a share of each side.
      scale: Largest change of the scaling factor, drawn from [1 - scale, 1 + scale].
      degrees: Largest angle of the rotation, in degrees.
      probability: Probability of applying the operation.
      interpolation: Interpolation of the warp: nearest | bilinear.
      border: Fill of the empty areas: reflect (the image mirrored, Albumentations' default) |
        black.

    Raises:
      InputError: for a number out of its range or an unknown choice.
    """

    shift: float = 0.0625
    scale: float = 0.1
    degrees: float = 45.0
    probability: float = 0.5
    interpolation: str = "bilinear"
    border: str = "reflect"

    def __post_init__(self):
        check_limits(
            "ShiftScaleRotate",
            (self.shift, self.scale, self.degrees),
            {"shift": 1.0, "scale": 0.99, "degrees": 180.0},
        )
        check_probability("ShiftScaleRotate.probability", self.probability)
        check_warp("ShiftScaleRotate", self.interpolation, self.border)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the moved image, or the image as it is."""
        rng = require_rng(rng)
        if rng.random() >= self.probability:
            return image
        height, width = image.shape[:2]
        shift_x, shift_y = rng.uniform(-self.shift, self.shift, 2)
        return affine(
            image,
            degrees=rng.uniform(-self.degrees, self.degrees),
            translate=(shift_x * width, shift_y * height),
            scale=1 + rng.uniform(-self.scale, self.scale),
            interpolation=self.interpolation,
            border=self.border,
        )


@dataclass(frozen=True)
class Perspective:
    """Looks at the image from another side: moves each corner inwards at random.

    Args:
      distortion: Largest distance that a corner moves along a side, as a share of half of it.
      probability: Probability of applying the operation.
      interpolation: Interpolation of the warp: nearest | bilinear.
      border: Fill of the empty areas: black | reflect (the image mirrored).

    Raises:
      InputError: for a number out of its range or an unknown choice.

    Source: torchvision's RandomPerspective, whose corners are drawn alike.
    """

    distortion: float = 0.5
    probability: float = 0.5
    interpolation: str = "bilinear"
    border: str = "black"

    def __post_init__(self):
        check_probability("Perspective.distortion", self.distortion)
        check_probability("Perspective.probability", self.probability)
        check_warp("Perspective", self.interpolation, self.border)

    def __call__(self, image: Image, rng: np.random.Generator | None) -> Image:
        """Returns the image seen from another side, or as it is."""
        rng = require_rng(rng)
        if rng.random() >= self.probability:
            return image
        corners = self.draw(image.shape[0], image.shape[1], rng)
        return perspective(image, corners, interpolation=self.interpolation, border=self.border)

    def draw(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """Returns where the corners go, (x, y) clockwise from the upper left; int64 [4, 2]."""
        reach = (int(self.distortion * (width // 2)) + 1, int(self.distortion * (height // 2)) + 1)
        inwards = rng.integers(0, reach, (4, 2))
        right, low = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])
        x = np.where(right, width - 1 - inwards[:, 0], inwards[:, 0])
        y = np.where(low, height - 1 - inwards[:, 1], inwards[:, 1])
        return np.stack([x, y], axis=1)


def affine(
    image: Image,
    *,
    degrees: float = 0.0,
    translate: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    shear: tuple[float, float] = (0.0, 0.0),
    interpolation: str = "bilinear",
    border: str = "black",
) -> Image:
    """Returns the image turned, sheared, scaled about its centre, and then shifted.

    Args:
      image: RGB image, uint8 [height, width, 3].
      degrees: Angle of the rotation in degrees, counter-clockwise, as torchvision's `rotate`; its
        `affine` turns the other way.
      translate: Shift to the right and down, in pixels.
      scale: Scaling factor; above 1 enlarges.
      shear: Shear angles along x and y, in degrees.
      interpolation: Interpolation of the warp: nearest | bilinear.
      border: Fill of the empty areas: black | reflect (the image mirrored).
    """
    height, width = image.shape[:2]
    matrix = inverse_affine_matrix(
        (width / 2, height / 2), degrees=degrees, translate=translate, scale=scale, shear=shear
    )
    matrix[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5  # OpenCV counts from a pixel's centre
    return cv2.warpAffine(
        image,
        matrix,
        (width, height),
        flags=_FILTERS[interpolation] | cv2.WARP_INVERSE_MAP,
        borderMode=_BORDERS[border],
    )


def perspective(
    image: Image, corners: np.ndarray, *, interpolation: str = "bilinear", border: str = "black"
) -> Image:
    """Returns the image whose corners lie at `corners`.

    Args:
      image: RGB image, uint8 [height, width, 3].
      corners: Positions of the corners, (x, y) clockwise from the upper left; any numbers [4, 2].
      interpolation: Interpolation of the warp: nearest | bilinear.
      border: Fill of the empty areas: black | reflect (the image mirrored).
    """
    height, width = image.shape[:2]
    own = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
    matrix = cv2.getPerspectiveTransform(
        np.asarray(corners, np.float32), np.asarray(own, np.float32)
    )
    # torchvision puts the corners' numbers on the corners of pixels, OpenCV on their centres.
    to_corner, to_centre = np.eye(3), np.eye(3)
    to_corner[:2, 2], to_centre[:2, 2] = 0.5, -0.5
    return cv2.warpPerspective(
        image,
        to_centre @ matrix @ to_corner,
        (width, height),
        flags=_FILTERS[interpolation] | cv2.WARP_INVERSE_MAP,
        borderMode=_BORDERS[border],
    )


def inverse_affine_matrix(
    center: tuple[float, float],
    *,
    degrees: float,
    translate: tuple[float, float],
    scale: float,
    shear: tuple[float, float],
) -> np.ndarray:
    """Returns the float64 [2, 3] matrix from a place in the result to its place in the image.

    The forward map is shift, rotation, shear and scale about the centre, in torchvision's order.
    """
    angle, shear_x, shear_y = -math.radians(degrees), math.radians(shear[0]), math.radians(shear[1])
    a = math.cos(angle - shear_y) / math.cos(shear_y)
    b = -a * math.tan(shear_x) - math.sin(angle)
    c = math.sin(angle - shear_y) / math.cos(shear_y)
    d = -c * math.tan(shear_x) + math.cos(angle)
    # The determinant of rotation and shear is 1, so that the inverse needs no division.
    inverse = np.array([[d, -b], [-c, a]]) / scale
    middle = np.array(center)
    return np.column_stack([inverse, middle - inverse @ (middle + np.array(translate))])


def check_warp(name: str, interpolation: str, border: str) -> None:
    """Raises an InputError for an interpolation or a border that no warp knows."""
    check_choice(f"{name}.interpolation", interpolation, tuple(_FILTERS))
    check_choice(f"{name}.border", border, tuple(_BORDERS))
