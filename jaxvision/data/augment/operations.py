"""The operations that learned and random policies draw from, and what a magnitude means for them.

Their pixels are torchvision's on PIL images; what leaves the image is filled with black.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import PIL.Image

from jaxvision.data.augment import color
from jaxvision.data.types import Image
from jaxvision.errors import check_choice

_RESAMPLING = {
    "nearest": PIL.Image.Resampling.NEAREST,
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Space:
    """How strong each operation of a policy is at each of its magnitudes, 0..bins-1.

    Strengths rise evenly from nothing to the ends given here. The bits that posterize keeps fall
    from the first number to the second, solarize's threshold from 255 to 0.

    Attributes:
      bins: Number of magnitudes.
      shear: Tangent of the largest shear angle.
      translate: Largest shift, as a share of the side; above 1: in pixels.
      rotate: Largest angle of the rotation, in degrees.
      enhance: Largest distance from 1 of the factor of brightness, color, contrast and sharpness.
      bits: Numbers of bits that posterize keeps, at the lowest and at the highest magnitude.
    """

    bins: int
    shear: float = 0.3
    translate: float = 150.0 / 331.0
    rotate: float = 30.0
    enhance: float = 0.9
    bits: tuple[int, int] = (8, 4)

    def strength(self, name: str, magnitude: int, height: int, width: int) -> float:
        """Returns the unsigned strength of an operation on an image of the given size."""
        if name in ("shear_x", "shear_y"):
            end = self.shear
        elif name in ("translate_x", "translate_y"):
            side = width if name == "translate_x" else height
            end = self.translate if self.translate > 1 else self.translate * side
        elif name == "rotate":
            end = self.rotate
        elif name in _ENHANCEMENTS:
            end = self.enhance
        elif name == "posterize":
            first, last = self.bits
            return float(first - round((first - last) * magnitude / (self.bins - 1)))
        elif name == "solarize":
            return 255.0 - 255.0 * magnitude / (self.bins - 1)
        else:
            return 0.0
        return _evenly(end, magnitude, self.bins)


RAND_SPACE = Space(bins=31)
AUTO_SPACE = Space(bins=10)
WIDE_SPACE = Space(
    bins=31, shear=0.99, translate=32.0, rotate=135.0, enhance=0.99, bits=(8, 2)
)  # TrivialAugment
MIX_SPACE = Space(bins=10, translate=1 / 3, bits=(4, 0))  # AugMix


# A step is an operation, its probability (None: always, without a draw) and its magnitude; a plan
# is a few steps in turn.
Step = tuple[str, float | None, int]
Plan = tuple[Step, ...]


@dataclass(frozen=True)
class Choices:
    """What a policy chooses from, on the host and on the devices.

    Attributes:
      space: Space of the magnitudes.
      plans: Plans of which each round draws one, all equally likely.
      rounds: Number of rounds.
    """

    space: Space
    plans: tuple[Plan, ...]
    rounds: int = 1

    def table(
        self, height: int, width: int
    ) -> tuple[list[tuple[str, float]], np.ndarray, np.ndarray]:
        """Returns what every draw means for an image of the given size.

        Returns:
          The operations with their signed strengths, of which the first does nothing; the number of
          the operation for [plan, step, whether the other sign was drawn]; and the probability
          [plan, step] that it happens.
        """
        rows: dict[tuple[str, float], int] = {("identity", 0.0): 0}
        numbers, probabilities = [], []
        for plan in self.plans:
            for name, probability, magnitude in plan:
                strength = self.space.strength(name, magnitude, height, width)
                other = -strength if name in SIGNED else strength
                numbers.append([rows.setdefault((name, s), len(rows)) for s in (strength, other)])
                probabilities.append(1.0 if probability is None else probability)
        steps = len(self.plans[0])
        return (
            list(rows),
            np.array(numbers, np.int32).reshape(-1, steps, 2),
            np.array(probabilities, np.float32).reshape(-1, steps),
        )


def apply_operation(
    image: Image, name: str, strength: float, *, interpolation: str = "nearest"
) -> Image:
    """Returns the image after one operation; a name of `OPERATIONS` and its signed strength."""
    return OPERATIONS[name](image, strength, interpolation)


def draw_strength(
    space: Space, name: str, magnitude: int, image: Image, rng: np.random.Generator
) -> float:
    """Returns the strength of an operation; half of the signed ones go the other way."""
    strength = space.strength(name, magnitude, image.shape[0], image.shape[1])
    return -strength if name in SIGNED and rng.integers(2) else strength


def apply_plan(
    image: Image, plan: Plan, space: Space, rng: np.random.Generator, *, interpolation: str
) -> Image:
    """Returns the image after those steps of a plan that happen."""
    for name, probability, magnitude in plan:
        if probability is None or rng.random() < probability:
            strength = draw_strength(space, name, magnitude, image, rng)
            image = apply_operation(image, name, strength, interpolation=interpolation)
    return image


def check_interpolation(policy: str, interpolation: str) -> None:
    """Raises an InputError for an interpolation that no operation knows."""
    check_choice(f"{policy}.interpolation", interpolation, tuple(_RESAMPLING))


@functools.lru_cache(maxsize=4096)
def _evenly(end: float, magnitude: int, bins: int) -> float:
    """Returns one of `bins` numbers from 0 to `end`, rounded as torch.linspace does.

    Translations are cut to whole pixels, so that the last bit may decide about one.
    """
    last = np.float32(end)
    step = float(last / np.float32(bins - 1))
    if magnitude < bins // 2:
        return float(np.float32(step * magnitude))
    return float(np.float32(float(last) - step * (bins - 1 - magnitude)))


def warp_matrix(
    name: str, strength: float, height: int, width: int
) -> tuple[float, float, float, float, float, float]:
    """Returns (a, b, c, d, e, f): (x, y) of the result is (a x + b y + c, d x + e y + f) before.

    Args:
      name: Name of the operation; one that moves nothing gives the identity.
      strength: Signed strength of the operation.
      height: Height of the image, in pixels.
      width: Width of the image, in pixels.
    """
    match name:
        case "shear_x":
            return 1.0, math.tan(_shear_angle(strength)), 0.0, 0.0, 1.0, 0.0
        case "shear_y":
            angle = _shear_angle(strength)
            return 1.0, 0.0, 0.0, math.sin(angle) / math.cos(angle), 1.0, 0.0
        case "translate_x":
            return 1.0, 0.0, -float(int(strength)), 0.0, 1.0, 0.0
        case "translate_y":
            return 1.0, 0.0, 0.0, 0.0, 1.0, -float(int(strength))
        case "rotate":  # as Pillow's rotate
            angle = -math.radians(strength % 360.0)
            cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
            x, y = width / 2, height / 2
            return cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y
        case _:
            return 1.0, 0.0, 0.0, 0.0, 1.0, 0.0


def _warp(name: str, image: np.ndarray, strength: float, interpolation: str) -> np.ndarray:
    picture = PIL.Image.fromarray(image)
    return np.asarray(
        picture.transform(
            picture.size,
            PIL.Image.Transform.AFFINE,
            warp_matrix(name, strength, *image.shape[:2]),
            _RESAMPLING[interpolation],
        )
    )


def _rotate(image: np.ndarray, degrees: float, interpolation: str) -> np.ndarray:
    return np.asarray(PIL.Image.fromarray(image).rotate(degrees, _RESAMPLING[interpolation]))


def _shear_angle(strength: float) -> float:
    """Returns the angle in torchvision's rounding, whose last bit decides a pixel at the border."""
    return math.radians(math.degrees(math.atan(strength)))


def _enhance(
    adjust: Callable[[np.ndarray, float], np.ndarray],
    image: np.ndarray,
    strength: float,
    interpolation: str,
) -> np.ndarray:
    return adjust(image, 1 + strength)


_MOVES = ("shear_x", "shear_y", "translate_x", "translate_y")
_ENHANCEMENTS = {
    "brightness": functools.partial(_enhance, color.adjust_brightness),
    "color": functools.partial(_enhance, color.adjust_saturation),
    "contrast": functools.partial(_enhance, color.adjust_contrast),
    "sharpness": functools.partial(_enhance, color.adjust_sharpness),
}
# Name: function of image, strength and interpolation.
OPERATIONS: dict[str, Callable[[np.ndarray, float, str], np.ndarray]] = {
    "identity": lambda image, _, __: image,
    **{name: functools.partial(_warp, name) for name in _MOVES},
    "rotate": _rotate,
    **_ENHANCEMENTS,
    "posterize": lambda image, s, _: color.posterize(image, int(s)),
    "solarize": lambda image, s, _: color.solarize(image, s),
    "autocontrast": lambda image, _, __: color.autocontrast(image),
    "equalize": lambda image, _, __: color.equalize(image),
    "invert": lambda image, _, __: color.invert(image),
}
SIGNED = frozenset((*_MOVES, "rotate", *_ENHANCEMENTS))
