"""How training images are augmented: on the host, and on the devices."""

import functools
from collections.abc import Callable

import jax

from jaxvision.data.augment.compose import Compose
from jaxvision.data.augment.crops import CenterCrop, RandomResizedCrop, Resize
from jaxvision.data.augment.transforms import train_transform
from jaxvision.data.types import Transform
from jaxvision.errors import InputError
from jaxvision.options.augment import AugmentOptions
from jaxvision.options.data import AUTO
from jaxvision.options.size import Size
from jaxvision.train.device_transforms import augment, runs_on_device

_CROPS = (RandomResizedCrop, Resize, CenterCrop)  # which the host does, of images of any size


def host_transform(options: AugmentOptions, image_size: Size, *, interpolation: str) -> Transform:
    """Returns the operations that the host does on one training image.

    With `on_device` those of `device_augment` are not among them.

    Args:
      options: Options of the augmentation: what happens to an image.
      image_size: Size of the output in pixels, one side or (height, width).
      interpolation: Filter of every resize, bilinear or bicubic.

    Raises:
      InputError: if all operations shall run on the devices, and one cannot; or if none would.
    """
    return Compose(_split(options, image_size, interpolation)[0])


def takes_photos(transform: Transform) -> bool:
    """Returns whether a transform cuts a part out of a `Photo`, without need of all its pixels."""
    first = transform.operations[0] if isinstance(transform, Compose) else None
    return isinstance(first, RandomResizedCrop) and not first.antialias


def device_augment(
    options: AugmentOptions,
    preprocess_fn: Callable[[jax.Array], jax.Array],
    image_size: Size,
    *,
    interpolation: str,
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """Returns the function (key, uint8 images) -> augmented, normalised images; None: host only.

    Args:
      options: Options of the augmentation: what happens to an image.
      preprocess_fn: Function from uint8 images to normalised images.
      image_size: Size of the output in pixels, one side or (height, width).
      interpolation: Filter of every resize, bilinear or bicubic.
    """
    operations = _split(options, image_size, interpolation)[1]
    if not operations:
        return None
    return functools.partial(augment, preprocess_fn=preprocess_fn, operations=operations)


def _split(
    options: AugmentOptions, image_size: Size, interpolation: str
) -> tuple[tuple[Transform, ...], tuple[Transform, ...]]:
    """Returns the operations of the host and those of the devices, which follow."""
    operations = train_transform(image_size, options, interpolation=interpolation).operations
    if not options.on_device:
        return operations, ()
    here = [runs_on_device(operation) for operation in operations]
    if not options.stored_size:
        # The crop is made on the host, and what comes before something that only the host can do.
        count = max(
            i + 1 for i, one in enumerate(operations) if not here[i] or isinstance(one, _CROPS)
        )
        if count == len(operations) and not isinstance(operations[-1], _CROPS):
            raise InputError(
                "--config.augment.on_device=True leaves the device nothing to do, since the last "
                f"operation, {type(operations[-1]).__name__}, is one of the host: set it to False."
            )
        return operations[:count], operations[count:]
    if not all(here):
        name = type(operations[here.index(False)]).__name__
        how = f" with data.interpolation={interpolation}" if name == "RandomResizedCrop" else ""
        raise InputError(
            f"With --config.augment.stored_size the device does all operations, but it has no "
            f"{name}{how}: set --config.augment.stored_size=0, so that the host crops."
        )
    side = options.stored_size
    filter_name = "bilinear" if interpolation == AUTO else interpolation
    return (Resize(side, filter_name), CenterCrop((side, side))), operations
