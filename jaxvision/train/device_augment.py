"""Flips, crop and erasing of a batch, on the device: each example under a key of its own.

An example's key is the batch's key folded with the example's place in the whole batch. So the
result does not depend on how the batch is split over devices, processes or calls: a part of it
gives the same images as long as `first` says where the part begins. Mixup and cutmix, which need
the whole batch, are in mix.py.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num, PRNGKeyArray

_ATTEMPTS = 10  # to find a box that fits, as torchvision


def example_keys(
    key: PRNGKeyArray, count: int, *, first: int | Int[Array, ""] = 0
) -> Key[Array, " {count}"]:
    """Returns the key of each example.

    Args:
      key: Key of the whole batch.
      count: Number of examples.
      first: Place of the first example in the whole batch.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(count))


def flip(
    key: PRNGKeyArray,
    images: Num[Array, "batch height width channels"],
    *,
    probability: float = 0.5,
    upside_down: bool = False,
    first: int | Int[Array, ""] = 0,
) -> Num[Array, "batch height width channels"]:
    """Swaps left and right of each image with the given probability.

    Args:
      key: Key of the whole batch.
      images: Images of any dtype, which is kept.
      probability: Probability of flipping an image.
      upside_down: Whether top and bottom are swapped instead.
      first: Place of the first example in the whole batch, see `example_keys`.
    """
    axis = 0 if upside_down else 1

    def flip_one(key: PRNGKeyArray, image: jax.Array) -> jax.Array:
        return jnp.where(jax.random.uniform(key) < probability, jnp.flip(image, axis), image)

    return for_each(flip_one, key, images, first)


def crop(
    key: PRNGKeyArray,
    images: Num[Array, "batch height width channels"],
    *,
    padding: int = 4,
    fill: float = 0.0,
    reflects: bool = False,
    first: int | Int[Array, ""] = 0,
) -> Num[Array, "batch height width channels"]:
    """Adds a border to each image and cuts out a random part of the old size.

    Args:
      key: Key of the whole batch.
      images: Images of any dtype, which is kept.
      padding: Number of pixels that are added on each side.
      fill: Value of the border: 0 is the mean colour of normalised images.
      reflects: Whether the border is the image mirrored at its outermost pixels instead.
      first: Place of the first example in the whole batch, see `example_keys`.

    Source: He et al. 2016, Deep residual learning, section 4.2.
    """
    border = ((padding, padding), (padding, padding), (0, 0))

    def crop_one(key: PRNGKeyArray, image: jax.Array) -> jax.Array:
        top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        if reflects:
            wide = jnp.pad(image, border, mode="reflect")
        else:
            wide = jnp.pad(image, border, constant_values=jnp.asarray(fill, image.dtype))
        return jax.lax.dynamic_slice(wide, (top, left, 0), image.shape)

    return for_each(crop_one, key, images, first)


def erase(
    key: PRNGKeyArray,
    images: Float[Array, "batch height width channels"],
    *,
    probability: float = 0.25,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    noise: bool = False,
    first: int | Int[Array, ""] = 0,
) -> Float[Array, "batch height width channels"]:
    """Covers a random rectangle of each image with the given probability.

    Args:
      key: Key of the whole batch.
      images: Normalised images.
      probability: Probability of erasing a rectangle of an image.
      scale: Range of the rectangle's share of the area.
      ratio: Range of the rectangle's height / width.
      noise: Whether normal noise covers the rectangle instead of 0, the mean colour.
      first: Place of the first example in the whole batch, see `example_keys`.

    Source: Zhong et al. 2017, Random erasing, https://arxiv.org/abs/1708.04896, algorithm 1.
    """
    height, width = images.shape[1:3]

    def erase_one(key: PRNGKeyArray, image: jax.Array) -> jax.Array:
        apply_key, area_key, ratio_key, place_key, noise_key = jax.random.split(key, 5)
        share = jax.random.uniform(area_key, (_ATTEMPTS,), minval=scale[0], maxval=scale[1])
        area = height * width * share
        log_ratio = jax.random.uniform(
            ratio_key, (_ATTEMPTS,), minval=math.log(ratio[0]), maxval=math.log(ratio[1])
        )
        sizes = jnp.round(
            jnp.sqrt(jnp.stack([area * jnp.exp(log_ratio), area / jnp.exp(log_ratio)], axis=1))
        ).astype(jnp.int32)  # [attempts, 2]
        whole = jnp.array([height, width])
        fits = (sizes < whole[None]).all(axis=1)
        size = sizes[jnp.argmax(fits)]  # the first that fits
        start = jax.random.randint(place_key, (2,), 0, jnp.maximum(whole - size, 0) + 1)
        apply = fits.any() & (jax.random.uniform(apply_key) < probability)
        rows, columns = (
            (jnp.arange(side) >= start[axis]) & (jnp.arange(side) < start[axis] + size[axis])
            for axis, side in enumerate((height, width))
        )
        box = (rows[:, None] & columns[None] & apply)[..., None]
        cover = jax.random.normal(noise_key, image.shape, image.dtype) if noise else 0
        return jnp.where(box, cover, image)

    return for_each(erase_one, key, images, first)


def for_each(
    operation: Callable[[PRNGKeyArray, jax.Array], jax.Array],
    key: PRNGKeyArray,
    images: jax.Array,
    first: int | jax.Array = 0,
) -> jax.Array:
    """Returns the images after an operation, each under the key of its example.

    Args:
      operation: Function (key of the example, image) -> image.
      key: Key of the whole batch.
      images: Images of the batch, or of a part of it.
      first: Place of the first example in the whole batch, see `example_keys`.
    """
    return jax.vmap(operation)(example_keys(key, images.shape[0], first=first), images)
