"""How training images are augmented: on the host, and on the devices."""

import dataclasses
import functools
from collections.abc import Callable

import jax

from jaxvision.data.augment.transforms import train_transform
from jaxvision.data.types import Transform
from jaxvision.options.augment import AugmentOptions
from jaxvision.options.size import Size
from jaxvision.train.device_augment import augment


def host_transform(options: AugmentOptions, image_size: Size, *, interpolation: str) -> Transform:
    """Returns the operations that the host does on one training image.

    With `on_device` those of `device_augment` are not among them.

    Args:
      options: Options of the augmentation: what happens to an image.
      image_size: Size of the output in pixels, one side or (height, width).
      interpolation: Filter of every resize, bilinear or bicubic.
    """
    if options.on_device:
        options = dataclasses.replace(
            options,
            crop="none" if options.crop == "pad" else options.crop,
            horizontal_flip=0.0,
            vertical_flip=0.0,
            erasing=0.0,
        )
    return train_transform(image_size, options, interpolation=interpolation)


def device_augment(
    options: AugmentOptions, preprocess_fn: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """Returns the function (key, uint8 images) -> augmented, normalised images; None: host only.

    Args:
      options: Options of the augmentation: what happens to an image.
      preprocess_fn: Function from uint8 images to normalised images.
    """
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
