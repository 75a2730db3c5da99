"""The warps behind geometry.py: where the pixels of a moved image come from.

Nearest and bilinear warps sample where torchvision's do on tensors; a pixel differs by one level at
most.
"""

import math

import cv2
import numpy as np

from jaxvision.data.image import Image
from jaxvision.errors import check_choice

_FILTERS = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR}
_BORDERS = {"black": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}


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
      image: RGB.
      degrees: counter-clockwise, as torchvision's `rotate`; its `affine` turns the other way.
      translate: pixels to the right and down.
      scale: above 1 enlarges.
      shear: angles in degrees along x and y.
      interpolation: nearest | bilinear.
      border: black | reflect.
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
      image: RGB.
      corners: (x, y) clockwise from the upper left; any numbers [4, 2].
      interpolation: nearest | bilinear.
      border: black | reflect.
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
