"""The chains of operations that a config asks for, for training and for evaluation.

Every operation is called as `op(image, rng)` on uint8 RGB; one dataclass each. Those that draw
nothing ignore `rng`, so that the chain of an evaluation is called with None. No operation changes
its input. They are in crops.py, geometry.py, jitter.py, noise.py, policies.py, auto_augment.py and
compose.py, whole recipes of them in presets.py.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

from jaxvision.data.augment.auto_augment import POLICIES, AutoAugment
from jaxvision.data.augment.compose import Compose
from jaxvision.data.augment.crops import (
    PILLOW_FILTERS,
    CenterCrop,
    PadCrop,
    RandomResizedCrop,
    Resize,
)
from jaxvision.data.augment.geometry import (
    HorizontalFlip,
    Perspective,
    Rotation,
    ShiftScaleRotate,
    VerticalFlip,
)
from jaxvision.data.augment.jitter import ColorJitter, Grayscale
from jaxvision.data.augment.limits import are_numbers, check_limits, check_probability
from jaxvision.data.augment.noise import GaussianBlur, GaussianNoise, RandomErasing
from jaxvision.data.augment.policies import AugMix, RandAugment, TrivialAugment, three_augment
from jaxvision.data.augment.presets import PRESETS
from jaxvision.data.types import Transform
from jaxvision.errors import InputError, check_choice

__all__ = [
    "POLICY_NAMES",
    "ColorJitter",
    "Compose",
    "HorizontalFlip",
    "VerticalFlip",
    "eval_transform",
    "train_transform",
]

_POLICIES: dict[str, Callable[[], Transform]] = {
    **{f"auto_augment_{name}": functools.partial(AutoAugment, name) for name in POLICIES},
    "trivial_augment": TrivialAugment,
    "aug_mix": AugMix,
    "three_augment": three_augment,
}
POLICY_NAMES = tuple(_POLICIES)


def train_transform(
    image_size: int | tuple[int, int],
    *,
    preset: str = "",
    crop: str = "random_resized",
    crop_scale: tuple[float, float] = (0.08, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    crop_antialias: bool = False,
    crop_padding: int = 4,
    horizontal_flip: float = 0.5,
    vertical_flip: float = 0.0,
    rotation: float = 0.0,
    shift_scale_rotate: tuple[float, float, float] = (0.0, 0.0, 0.0),
    perspective: float = 0.0,
    rand_augment_layers: int = 0,
    rand_augment_magnitude: int = 9,
    policy: str = "",
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
    grayscale: float = 0.0,
    blur: float = 0.0,
    noise: float = 0.0,
    erasing: float = 0.0,
    interpolation: str = "bilinear",
) -> Compose:
    """Returns the operations of config.augment, in the order of the arguments.

    Args:
      image_size: pixels of the output, one side or (height, width).
      preset: a recipe of PRESETS instead of the single options; "": those below.
      crop: random_resized; pad (the image, resized to `image_size` if it has another size, with a
        border and cut at random); center (resized to cover `image_size`, the middle of it); none
        (the whole image, resized without keeping its aspect ratio).
      crop_scale: see RandomResizedCrop.
      crop_ratio: see RandomResizedCrop.
      crop_antialias: of random_resized; see RandomResizedCrop.
      crop_padding: pixels on each side, of `pad`.
      horizontal_flip: probability.
      vertical_flip: probability.
      rotation: largest angle, in degrees.
      shift_scale_rotate: largest shift, scale and angle; see ShiftScaleRotate. Half of the images.
      perspective: distortion; see Perspective. Half of the images.
      rand_augment_layers: operations per image; 0: off.
      rand_augment_magnitude: 0..30.
      policy: one of POLICY_NAMES instead of RandAugment; "": none.
      color_jitter: brightness, contrast, saturation and hue; see ColorJitter.
      grayscale: probability.
      blur: probability; see GaussianBlur.
      noise: probability; see GaussianNoise.
      erasing: probability; see RandomErasing.
      interpolation: of every resize: bilinear | bicubic.

    Raises:
      InputError: for an unknown name, a number out of its range, a preset beside a single option,
        or two policies.
    """
    options = {name: value for name, value in locals().items() if name in _DEFAULTS}
    size = _check_size(image_size)
    check_choice("data.interpolation", interpolation, tuple(PILLOW_FILTERS))
    if preset:
        check_choice("augment.preset", preset, tuple(PRESETS))
        _check_alone(preset, options)
        return PRESETS[preset](size, interpolation)
    _check_options(options)
    crops: dict[str, tuple[Transform, ...]] = {
        "random_resized": (
            RandomResizedCrop(size, crop_scale, crop_ratio, interpolation, crop_antialias),
        ),
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
    if rotation:
        operations.append(Rotation(rotation))
    if any(shift_scale_rotate):
        operations.append(ShiftScaleRotate(*shift_scale_rotate))
    if perspective:
        operations.append(Perspective(perspective))
    if rand_augment_layers:
        operations.append(RandAugment(rand_augment_layers, rand_augment_magnitude))
    if policy:
        operations.append(_POLICIES[policy]())
    if any(color_jitter):
        operations.append(ColorJitter(*color_jitter))
    if grayscale:
        operations.append(Grayscale(grayscale))
    if blur:
        operations.append(GaussianBlur(probability=blur))
    if noise:
        operations.append(GaussianNoise(probability=noise))
    if erasing:
        operations.append(RandomErasing(erasing))
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


def _check_options(options: dict[str, Any]) -> None:
    for name in ("horizontal_flip", "vertical_flip", "perspective", "grayscale") + (
        "blur",
        "noise",
        "erasing",
    ):
        check_probability(f"config.augment.{name}", options[name])
    for name in ("crop_scale", "crop_ratio"):
        pair, greatest = options[name], 1.0 if name == "crop_scale" else math.inf
        if not are_numbers(pair, 2) or not 0 < pair[0] <= pair[1] <= greatest:
            raise InputError(
                f"config.augment.{name} is (least, greatest), both above 0"
                + (" and at most 1" if name == "crop_scale" else "")
                + f", but is {tuple(pair)}."
            )
    color_jitter = options["color_jitter"]
    if not are_numbers(color_jitter, 4) or min(color_jitter) < 0 or color_jitter[3] > 0.5:
        raise InputError(
            "config.augment.color_jitter is (brightness, contrast, saturation, hue), each at least"
            f" 0 and the hue at most 0.5, but is {tuple(color_jitter)}."
        )
    check_limits("config.augment.rotation", (options["rotation"],), {"degrees": 180.0})
    check_limits(
        "config.augment.shift_scale_rotate",
        options["shift_scale_rotate"],
        {"shift": 1.0, "scale": 0.99, "degrees": 180.0},
    )
    policy = options["policy"]
    if policy:
        check_choice("augment.policy", policy, POLICY_NAMES)
        if options["rand_augment_layers"]:
            raise InputError(
                f"config.augment.policy={policy} takes the place of RandAugment: set"
                " --config.augment.rand_augment_layers=0, or the policy to ''."
            )


def _check_alone(preset: str, options: dict[str, Any]) -> None:
    """Checks that no single option stands beside a preset, which would not heed it."""
    for name, value in options.items():
        default = _DEFAULTS[name]
        if value != default:
            raise InputError(
                f"config.augment.preset={preset} decides all operations on an image: leave"
                f" --config.augment.{name} at {default!r} instead of {value!r}, or set the preset"
                " to ''."
            )


_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(train_transform).parameters.items()
    if name not in ("image_size", "interpolation", "preset")
}
