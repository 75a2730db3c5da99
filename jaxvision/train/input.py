"""From a batch on the devices to what a task reads: normalised, augmented, mixed."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

PreprocessFn = Callable[[jax.Array], jax.Array]


def make_preprocess(*, mean: tuple, std: tuple) -> PreprocessFn:
    """Returns the function from uint8 images [B,H,W,3] to normalised float32 images.

    Batches cross to the device as uint8, a quarter of the bytes, and are normalised there; under
    JAX_ENABLE_X64 in float64.

    Args:
      mean: Mean of each channel, in units of 0..1.
      std: Standard deviation of each channel, in units of 0..1.
    """

    def preprocess_fn(images: jax.Array) -> jax.Array:
        dtype = jnp.result_type(float)
        scale = jnp.asarray(1 / (255 * jnp.asarray(std)), dtype)
        shift = jnp.asarray(jnp.asarray(mean) / jnp.asarray(std), dtype)
        return images.astype(dtype) * scale[None, None, None] - shift[None, None, None]

    return preprocess_fn


def normalised(batch: dict, preprocess_fn: PreprocessFn) -> dict:
    """Returns a batch with normalised images, if it has any."""
    return dict(batch, image=preprocess_fn(batch["image"])) if "image" in batch else batch


@dataclasses.dataclass(frozen=True)
class TrainInput:
    """What becomes of a training batch on the devices.

    Attributes:
      preprocess_fn: Function from uint8 images to normalised images.
      augment: Function (key, uint8 images) -> normalised images, in place of `preprocess_fn`, or
        None.
      mix: Function (key, images, labels) -> (images, soft labels), or None.
    """

    preprocess_fn: PreprocessFn
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    mix: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]] | None = None

    def __call__(self, batch: dict, key: jax.Array) -> dict:
        """Returns the batch as a task reads it.

        Args:
          batch: Device arrays of one update.
          key: Key of this update, see `update_key`.
        """

        def look(images: jax.Array) -> jax.Array:
            if self.augment is None:
                return self.preprocess_fn(images)
            return self.augment(augment_key(key), images)

        batch = normalised(batch, look)
        if self.mix is not None:
            mix_key, _ = mix_and_dropout_keys(key)
            images, labels = self.mix(mix_key, batch["image"], batch["label"])
            batch = dict(batch, image=images, label=labels)
        return batch


def update_key(key: jax.Array, step: jax.Array) -> jax.Array:
    """Returns the key of one update, from `TrainState.key`: nothing random needs to be counted."""
    return jax.random.fold_in(key, step)


def mix_and_dropout_keys(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of mixup and of dropout, from that of the update."""
    mix_key, dropout_key = jax.random.split(key)
    return mix_key, dropout_key


def augment_key(key: jax.Array) -> jax.Array:
    """Returns the key of the augmentation on the device, from that of the update."""
    # jax derives the two of `mix_and_dropout_keys` as it would fold in 0 and 1.
    return jax.random.fold_in(key, 2)
