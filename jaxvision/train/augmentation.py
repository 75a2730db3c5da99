"""From a config to how training images are augmented: on the host, and on the devices."""

import functools
from collections.abc import Callable

import jax

from jaxvision.data.augment.transforms import train_transform
from jaxvision.data.types import Transform
from jaxvision.errors import InputError
from jaxvision.train.device_augment import augment
from jaxvision.train.workdir import Config

# Of config.augment, what train_transform takes.
_OPTIONS = (
    "preset crop crop_scale crop_ratio crop_antialias crop_padding horizontal_flip vertical_flip "
    "rotation shift_scale_rotate perspective rand_augment_layers rand_augment_magnitude policy "
    "color_jitter grayscale blur noise erasing"
).split()
# What the host does after the crop, and would then not do to the border of a padded one.
_BETWEEN = (
    "rotation shift_scale_rotate perspective rand_augment_layers policy color_jitter grayscale "
    "blur noise"
).split()


def host_transform(config: Config, image_size: int | tuple[int, int]) -> Transform:
    """Returns the operations that the host does on one training image.

    With `config.augment.on_device` those of `device_augment` are not among them.

    Args:
      config: see configs/common.py.
      image_size: pixels of the output, one side or (height, width).

    Raises:
      InputError: for an option that is wrong, or that does not go together with `on_device`.
    """
    options = {name: config.augment[name] for name in _OPTIONS}
    make = functools.partial(train_transform, image_size, interpolation=config.data.interpolation)
    whole = make(**options)
    if not config.augment.on_device:
        return whole
    _check_on_device(options)
    crop = "none" if options["crop"] == "pad" else options["crop"]
    left_out = {"crop": crop, "horizontal_flip": 0.0, "vertical_flip": 0.0, "erasing": 0.0}
    return make(**(options | left_out))


def device_augment(
    config: Config, preprocess_fn: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """Returns the function (key, uint8 images) -> augmented, normalised images; None: host only.

    Args:
      config: see configs/common.py; `host_transform` checks it.
      preprocess_fn: uint8 images to normalised images.
    """
    options = config.augment
    if not options.on_device:
        return None
    return functools.partial(
        augment,
        preprocess_fn=preprocess_fn,
        padding=options.crop_padding if options.crop == "pad" else 0,
        horizontal_flip=options.horizontal_flip,
        vertical_flip=options.vertical_flip,
        erasing=options.erasing,
    )


def _check_on_device(options: dict) -> None:
    if options["preset"]:
        raise InputError(
            f"config.augment.preset={options['preset']} decides all operations on an image, and "
            "config.augment.on_device=True moves single options to the device: set one of them off."
        )
    between = [name for name in _BETWEEN if _is_on(options[name])]
    if options["crop"] == "pad" and between:
        raise InputError(
            "On the device config.augment.crop=pad would come after "
            f"config.augment.{between[0]}, which is done on the host: set "
            "--config.augment.on_device=False, or another crop."
        )


def _is_on(value: object) -> bool:
    return any(value) if isinstance(value, tuple) else bool(value)
