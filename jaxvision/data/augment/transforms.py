"""The chains of operations that a config asks for, for training and for evaluation.

Every operation is called as `op(image, rng)` on uint8 RGB; one dataclass each. Those that draw
nothing ignore `rng`, so that the chain of an evaluation is called with None. No operation changes
its input. They are in crops.py, geometry.py, jitter.py, noise.py, policies.py, auto_augment.py and
compose.py, whole recipes of them in presets.py.
"""

import functools
from collections.abc import Callable

from jaxvision.data.augment.auto_augment import POLICIES, AutoAugment
from jaxvision.data.augment.compose import Compose
from jaxvision.data.augment.crops import (
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
from jaxvision.data.augment.noise import GaussianBlur, GaussianNoise, RandomErasing
from jaxvision.data.augment.policies import AugMix, RandAugment, TrivialAugment, three_augment
from jaxvision.data.augment.presets import PRESETS, moco_v3
from jaxvision.data.types import Transform
from jaxvision.errors import InputError, check_choice
from jaxvision.options.augment import AugmentOptions
from jaxvision.options.data import AUTO, CROP_MODES, INTERPOLATIONS, usual_resize
from jaxvision.options.moco import PRESET
from jaxvision.options.size import MAX_SIDE, Size

_POLICIES: dict[str, Callable[[], Transform]] = {
    **{f"auto_augment_{name}": functools.partial(AutoAugment, name) for name in POLICIES},
    "trivial_augment": TrivialAugment,
    "aug_mix": AugMix,
    "three_augment": three_augment,
}


def train_transform(
    image_size: Size, options: AugmentOptions | None = None, *, interpolation: str = AUTO
) -> Compose:
    """Returns the operations of config.augment on one image, in the order of its options.

    The crops: random_resized; pad (the image, resized to `image_size` if it has another size, with
    a border and cut at random); center (resized to cover `image_size`, the middle of it); none (the
    whole image, resized without keeping its aspect ratio).

    Args:
      image_size: Size of the output in pixels, one side or (height, width).
      options: Options of the augmentation; None: the defaults of the schema.
      interpolation: Interpolation of every resize: bilinear | bicubic | nearest | lanczos; auto:
        bilinear.

    Raises:
      InputError: for a size or filter that cannot work.
    """
    options = options or AugmentOptions()
    size = _check_size(image_size)
    interpolation = "bilinear" if interpolation == AUTO else interpolation
    check_choice("data.interpolation", interpolation, INTERPOLATIONS)
    if options.preset == PRESET:
        return moco_v3(size, interpolation, options.crop_scale)
    if options.preset:
        return PRESETS[options.preset](size, interpolation)
    crops: dict[str, Callable[[], tuple[Transform, ...]]] = {
        "random_resized": lambda: (
            RandomResizedCrop(
                size,
                options.crop_scale,
                options.crop_ratio,
                interpolation,
                options.crop_antialias,
            ),
        ),
        "pad": lambda: (
            Resize(size, interpolation),
            PadCrop(size, options.crop_padding, options.crop_border == "reflect"),
        ),
        "center": lambda: (Resize(max(size), interpolation), CenterCrop(size)),
        "none": lambda: (Resize(size, interpolation),),
    }
    operations = list(crops[options.crop]())
    if options.horizontal_flip and not options.alternating_flip:
        operations.append(HorizontalFlip(options.horizontal_flip))
    if options.vertical_flip:
        operations.append(VerticalFlip(options.vertical_flip))
    if options.rotation:
        operations.append(Rotation(options.rotation))
    if any(options.shift_scale_rotate):
        operations.append(ShiftScaleRotate(*options.shift_scale_rotate))
    if options.perspective:
        operations.append(Perspective(options.perspective))
    if options.rand_augment_layers:
        operations.append(RandAugment(options.rand_augment_layers, options.rand_augment_magnitude))
    if options.policy:
        operations.append(_POLICIES[options.policy]())
    if any(options.color_jitter):
        operations.append(ColorJitter(*options.color_jitter))
    if options.grayscale:
        operations.append(Grayscale(options.grayscale))
    if options.blur:
        operations.append(GaussianBlur(probability=options.blur))
    if options.noise:
        operations.append(GaussianNoise(probability=options.noise))
    if options.erasing:
        operations.append(RandomErasing(options.erasing))
    return Compose(tuple(operations))


def eval_transform(
    image_size: Size,
    *,
    eval_resize: int = -1,
    interpolation: str = AUTO,
    crop_mode: str = AUTO,
) -> Compose:
    """Returns torchvision's evaluation: the short side to `eval_resize`, then the middle.

    Where the output is no square, its short side is meant, and the image covers the whole of it.

    Args:
      image_size: Size of the output in pixels, one side or (height, width).
      eval_resize: Size of the short side after the resize, in pixels, at least the output's; 0: no
        resize, of images that are large enough; -1: 8/7 of the output's.
      interpolation: Interpolation of the resize: bilinear | bicubic | nearest | lanczos; auto:
        bilinear.
      crop_mode: Whether the resize keeps the aspect ratio, "center", or not, "squash"; auto:
        center.

    Raises:
      InputError: for an unknown interpolation or mode, or a size that leaves a part of the output
        empty; the transform, for an image that does.
    """
    size = _check_size(image_size)
    side = min(size)
    interpolation = "bilinear" if interpolation == AUTO else interpolation
    crop_mode = "center" if crop_mode == AUTO else crop_mode
    eval_resize = usual_resize(side) if eval_resize == -1 else eval_resize
    check_choice("data.interpolation", interpolation, INTERPOLATIONS)
    check_choice("data.eval_crop", crop_mode, CROP_MODES)
    if eval_resize and not side <= eval_resize <= MAX_SIDE:
        raise InputError(
            f"config.data.eval_resize is 0 or at least the {side} pixels of image_size and at most "
            f"{MAX_SIDE}, but is {eval_resize}."
        )
    crop = CenterCrop(size, pads=False)
    if not eval_resize:
        return Compose((crop,))
    rows, columns = (round(x * eval_resize / side) for x in size)
    return Compose((Resize((rows, columns), interpolation, covers=crop_mode == "center"), crop))


def _check_size(image_size: Size) -> tuple[int, int]:
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or min(size) < 1:
        raise InputError(
            "config.data.image_size is pixels or (height, width), each at least 1, but is"
            f" {image_size}."
        )
    return size
