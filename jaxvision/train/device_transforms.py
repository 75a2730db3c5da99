"""The operations of `data/augment` that run on the devices, each made from its host's counterpart.

The options are read once, by `train_transform`; what it returns runs on the host, or here.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from jaxvision.data.augment import crops, geometry, jitter, noise, policies
from jaxvision.data.augment.auto_augment import AutoAugment
from jaxvision.data.augment.compose import OneOf
from jaxvision.data.types import Transform
from jaxvision.train import device_ops, device_warp
from jaxvision.train.device_augment import crop, erase, flip, for_each
from jaxvision.train.device_crop import FILTERS, random_resized_crop
from jaxvision.train.device_policies import apply_policy, aug_mix
from jaxvision.train.device_warp import Pixels

_One = Callable[[PRNGKeyArray, Pixels], Pixels]  # one image, under the key of its example
_Batch = Callable[..., jax.Array]  # (key of the batch, images, first=0), see `example_keys`


def augment(
    key: PRNGKeyArray,
    images: UInt8[Array, "batch height width 3"],
    *,
    preprocess_fn: Callable[[jax.Array], jax.Array],
    operations: Sequence[Transform],
    first: int | Int[Array, ""] = 0,
) -> Float[Array, "batch rows columns 3"]:
    """Returns normalised images after some operations.

    Args:
      key: Key of the whole batch.
      images: Images before normalisation, so that borders are black, as the host's.
      preprocess_fn: Function from uint8 images to normalised images, whose mean colour covers what
        is erased.
      operations: Operations of the host, in their order, each one of which `runs_on_device`.
      first: Place of the first example in the whole batch, see `example_keys`.
    """
    normalised = False
    for operation in operations:
        if isinstance(operation, noise.RandomErasing):
            images, normalised = preprocess_fn(images), True
        images = _batch_form(operation)(_key_of(key, operation), images, first=first)
    return images if normalised else preprocess_fn(images)


def runs_on_device(operation: Transform) -> bool:
    """Returns whether an operation of the host can run on the devices instead."""
    match operation:
        case geometry.HorizontalFlip() | geometry.VerticalFlip() | crops.PadCrop():
            return True
        case noise.RandomErasing(fill=fill):
            return fill != "black"
        case _:
            return _single_form(operation) is not None


# A batch's key is folded with the place in this list: a new operation goes to the end, so that runs
# that go on keep their random numbers.
_ORDER: tuple[type, ...] = (
    crops.PadCrop,
    geometry.HorizontalFlip,
    geometry.VerticalFlip,
    noise.RandomErasing,
    crops.RandomResizedCrop,
    geometry.Rotation,
    geometry.ShiftScaleRotate,
    policies.RandAugment,
    policies.TrivialAugment,
    AutoAugment,
    OneOf,
    jitter.ColorJitter,
    jitter.Grayscale,
    noise.GaussianBlur,
    noise.GaussianNoise,
    policies.AugMix,
)


def _key_of(key: PRNGKeyArray, operation: Transform) -> PRNGKeyArray:
    return jax.random.fold_in(key, _ORDER.index(type(operation)))


def _batch_form(operation: Transform) -> _Batch:
    match operation:
        case crops.PadCrop(padding=padding, reflects=reflects):
            return functools.partial(crop, padding=padding, reflects=reflects)
        case geometry.HorizontalFlip(probability=probability):
            return functools.partial(flip, probability=probability)
        case geometry.VerticalFlip(probability=probability):
            return functools.partial(flip, probability=probability, upside_down=True)
        case noise.RandomErasing(probability=probability, scale=scale, ratio=ratio, fill=fill):
            return functools.partial(
                erase, probability=probability, scale=scale, ratio=ratio, noise=fill == "noise"
            )
    one = _single_form(operation)
    assert one is not None, operation
    return functools.partial(for_each, one)


def _single_form(operation: Transform) -> _One | None:
    """Returns the function of one image, or None if only the host has it."""
    match operation:
        case crops.RandomResizedCrop(interpolation=interpolation) if interpolation in FILTERS:
            return functools.partial(
                random_resized_crop,
                size=operation.size,
                scale=operation.scale,
                ratio=operation.ratio,
                interpolation=interpolation,
            )
        case geometry.Rotation(interpolation="bilinear"):
            return functools.partial(_rotate, operation)
        case geometry.ShiftScaleRotate(interpolation="bilinear"):
            return functools.partial(_shift_scale_rotate, operation)
        case policies.RandAugment() | policies.TrivialAugment() | AutoAugment():
            if operation.interpolation not in ("nearest", "bilinear"):
                return None
            return functools.partial(
                apply_policy,
                choices=operation.choices,
                bilinear=operation.interpolation == "bilinear",
            )
        case policies.AugMix(alpha=1.0, interpolation="nearest" | "bilinear"):
            return functools.partial(
                aug_mix,
                choices=operation.choices,
                width=operation.width,
                depths=(operation.depth or 1, operation.depth or 3),
                bilinear=operation.interpolation == "bilinear",
            )
        case OneOf(operations=several):
            forms = [_single_form(one) for one in several]
            return None if None in forms else functools.partial(_one_of, operation, forms)
        case jitter.ColorJitter():
            return functools.partial(_jitter, operation)
        case jitter.Grayscale(probability=probability):
            return lambda key, image: jnp.where(
                _happens(key, probability), device_ops.grayscale(image), image
            )
        case jitter.Solarize(threshold=threshold):
            return lambda _, image: device_ops.solarize(image, jnp.int32(math.ceil(threshold)))
        case noise.GaussianBlur(kernel_size=0, sigma=(_, greatest)) if greatest > 2:
            return None
        case noise.GaussianBlur():
            return functools.partial(_blur, operation)
        case noise.GaussianNoise():
            return functools.partial(_add_noise, operation)
    return None


def _happens(key: PRNGKeyArray, probability: float) -> jax.Array:
    return jax.random.uniform(key, dtype=jnp.float32) < probability


def _between(key: PRNGKeyArray, low: Any, high: Any, shape: tuple[int, ...] = ()) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32, low, high)


def _rotate(operation: geometry.Rotation, key: PRNGKeyArray, image: Pixels) -> Pixels:
    degrees = _between(key, -operation.degrees, operation.degrees)
    matrix = device_warp.rotation_matrix(degrees, *image.shape[:2])
    return device_warp.affine(image, matrix, reflect=operation.border == "reflect")


def _shift_scale_rotate(
    operation: geometry.ShiftScaleRotate, key: PRNGKeyArray, image: Pixels
) -> Pixels:
    happens, shift_key, degrees_key, scale_key = jax.random.split(key, 4)
    height, width = image.shape[:2]
    shift_x, shift_y = _between(shift_key, -operation.shift, operation.shift, (2,))
    matrix = device_warp.rotation_matrix(
        _between(degrees_key, -operation.degrees, operation.degrees),
        height,
        width,
        shift=(shift_x * width, shift_y * height),
        scale=1 + _between(scale_key, -operation.scale, operation.scale),
    )
    moved = device_warp.affine(image, matrix, reflect=operation.border == "reflect")
    return jnp.where(_happens(happens, operation.probability), moved, image)


def _one_of(operation: OneOf, forms: Sequence[_One], key: PRNGKeyArray, image: Pixels) -> Pixels:
    happens, number_key, *keys = jax.random.split(key, 2 + len(forms))
    number = jax.random.randint(number_key, (), 0, len(forms))
    number = jnp.where(_happens(happens, operation.probability), number, len(forms))
    results = [one(key, image) for one, key in zip(forms, keys, strict=True)]  # all are computed
    return functools.reduce(
        lambda chosen, i: jnp.where(number == i, results[i], chosen), range(len(forms)), image
    )


def _jitter(operation: jitter.ColorJitter, key: PRNGKeyArray, image: Pixels) -> Pixels:
    order_key, key = jax.random.split(key)
    names = [
        name for name in ("brightness", "contrast", "saturation", "hue") if getattr(operation, name)
    ]
    strengths = {}
    for name, one_key in zip(names, jax.random.split(key, len(names)), strict=True):
        value = getattr(operation, name)
        low, high = (-value, value) if name == "hue" else (max(0.0, 1 - value), 1 + value)
        strengths[name] = _between(one_key, low, high)
    order = jax.random.permutation(order_key, len(names))
    for number in order:
        image = device_ops.adjust(image, strengths, number)
    return image


def _blur(operation: noise.GaussianBlur, key: PRNGKeyArray, image: Pixels) -> Pixels:
    happens, sigma_key = jax.random.split(key)
    size = operation.kernel_size
    blurred = device_ops.gaussian_blur(
        image, _between(sigma_key, *operation.sigma), radius=size // 2 if size else None
    )
    return jnp.where(_happens(happens, operation.probability), blurred, image)


def _add_noise(operation: noise.GaussianNoise, key: PRNGKeyArray, image: Pixels) -> Pixels:
    happens, variance_key, noise_key = jax.random.split(key, 3)
    deviation = jnp.sqrt(_between(variance_key, *operation.variance))
    grains = deviation * jax.random.normal(noise_key, image.shape, jnp.float32)
    noisy = jnp.clip(jnp.round(image.astype(jnp.float32) + grains), 0, 255).astype(jnp.uint8)
    return jnp.where(_happens(happens, operation.probability), noisy, image)
