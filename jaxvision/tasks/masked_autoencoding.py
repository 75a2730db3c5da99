"""Masked autoencoding: images without their labels, guessed from a quarter of their patches."""

import dataclasses
import pathlib
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxvision.plots.reconstructions import plot_reconstructions
from jaxvision.tasks.samples import look_at
from jaxvision.tasks.task import OpenRun, Weights, spread
from jaxvision.tasks.unlabelled import Unlabelled

NUM_PICTURES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedAutoencoding(Unlabelled):
    """The mean squared error over masked patches, of training images and of others.

    What an evaluation masks follows from each image alone: it is the same whatever the batch size
    and the devices, and from evaluation to evaluation.

    Source: He et al. 2022, Masked Autoencoders Are Scalable Vision Learners, section 3.
    """

    name: ClassVar[str] = "masked_autoencoding"
    metrics: ClassVar[tuple[str, ...]] = ("loss",)

    def loss(self, model: Any, batch: dict, *, rngs: nnx.Rngs) -> tuple[jax.Array, dict]:
        """Returns the mean loss of a training batch; there are no further metrics."""
        images = batch["image"]
        noise = jax.random.uniform(rngs.dropout(), (len(images), model.config.num_patches))
        pixels, masked = model.reconstruct(images, noise, train=True, rngs=rngs)
        return jnp.mean(model.losses(pixels, masked, images)), {}

    def evaluate(self, model: Any, batch: dict) -> dict:
        """Returns {metric: (sum, count)} over the valid examples of a batch."""
        images, valid = batch["image"], batch["mask"]
        pixels, masked = model.reconstruct(images, noise_of(images, model.config.num_patches))
        losses = model.losses(pixels, masked, images)
        return {"loss": (jnp.sum(jnp.where(valid, losses, 0.0)), jnp.sum(valid))}

    def draw(self, run: OpenRun, weights: Weights, workdir: pathlib.Path) -> str | None:
        """Draws evaluation images, what the encoder sees of them, and what comes back."""

        @jax.jit
        def step(batch: dict) -> jax.Array:
            model: Any = nnx.merge(run.graphdef, *weights, copy=True)
            images = run.preprocess_fn(batch["image"])
            pixels, masked = model.reconstruct(images, noise_of(images, model.config.num_patches))
            guessed = model.pictures(pixels, images)
            hidden = model.spread_mask(masked).astype(guessed.dtype)
            return jnp.concatenate([guessed, hidden], axis=-1)

        source = self.data.eval_source
        seen = look_at(run, self.eval_subset(spread(len(source), NUM_PICTURES)), step)
        good = np.flatnonzero(~seen.corrupt)
        if not good.size:
            return None
        images = seen.images(seen.positions[good].tolist())
        if jax.process_index() == 0:
            shift = run.preprocess_fn(jnp.zeros((1, 1, 1, 3), jnp.uint8))
            scale = run.preprocess_fn(jnp.full((1, 1, 1, 3), 255, jnp.uint8)) - shift
            guessed = (seen.outputs[good][..., :3] - np.asarray(shift)) / np.asarray(scale)
            guessed = np.round(255 * np.clip(guessed, 0.0, 1.0)).astype(np.uint8)
            masked = seen.outputs[good][..., 3] > 0.5
            plot_reconstructions(images, masked, guessed, workdir / "reconstructions.png")
        return "reconstructions.png"


def noise_of(images: jax.Array, num_patches: int) -> jax.Array:
    """Returns noise [batch, num_patches] that follows from the bits of each image.

    Args:
      images: Normalised images.
      num_patches: Patches of an image.
    """
    bits = jax.lax.bitcast_convert_type(images.astype(jnp.float32), jnp.uint32)
    seeds = jnp.sum(bits, axis=(1, 2, 3), dtype=jnp.uint32)
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(0), seed))(seeds)
    return jax.vmap(lambda key: jax.random.uniform(key, (num_patches,)))(keys)
