"""Captioning: what a batch of images and their captions means."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision.metrics.losses import token_cross_entropy


@dataclasses.dataclass(frozen=True)
class Captioning:
    """Loss and exact evaluation of a model that writes captions, given the true words before.

    Attributes:
      pad: token that fills a row, of which nothing is asked.
      label_smoothing: probability mass spread evenly over the vocabulary, in [0, 1).
    """

    pad: int = 0
    label_smoothing: float = 0.0

    def prepare(self, batch: dict) -> dict:
        """Adds `token_weight` [B, T-1]: its mean with the losses is that of all valid tokens.

        It is computed over the whole batch, so that micro-batches with fewer words than others
        count less, and several of them give the update of one.
        """
        valid = self._valid(batch).astype(jnp.float32)
        share = valid.shape[0] / jnp.maximum(jnp.sum(valid), 1.0)
        return dict(batch, token_weight=valid * share)

    def loss(self, model: Any, batch: dict, *, rngs: Any) -> tuple:
        """Returns the mean loss of the valid tokens and its float32 scalar metrics."""
        inputs, targets = shift(batch["tokens"])
        logits = model(model_inputs(batch), inputs, train=True, rngs=rngs)
        losses = token_cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        correct = jnp.argmax(logits, axis=-1) == targets
        weight = batch["token_weight"]

        def mean(values: jax.Array) -> jax.Array:
            return jnp.mean(jnp.sum(jnp.where(weight > 0, values * weight, 0.0), axis=-1))

        return mean(losses), {"token_accuracy": mean(correct)}

    def evaluate(self, model: Any, batch: dict) -> dict:
        """Returns {metric: (sum, count)} over the valid tokens of a batch."""
        inputs, targets = shift(batch["tokens"])
        logits = model(model_inputs(batch), inputs)
        valid = self._valid(batch)
        values = {
            "loss": token_cross_entropy(logits, targets),
            "token_accuracy": jnp.argmax(logits, axis=-1) == targets,
        }
        count = jnp.sum(valid)
        # where, not multiplication: padding may hold anything, also a non-finite loss.
        return {
            name: (jnp.sum(jnp.where(valid, value, 0.0)), count) for name, value in values.items()
        }

    def _valid(self, batch: dict) -> Bool[Array, "batch targets"]:
        _, targets = shift(batch["tokens"])
        return (targets != self.pad) & batch["mask"][:, None]


def shift(
    tokens: Int[Array, "batch length"],
) -> tuple[Int[Array, "batch targets"], Int[Array, "batch targets"]]:
    """Returns what a decoder is given and what it shall say: the one place that shifts by one."""
    return tokens[:, :-1], tokens[:, 1:]


def model_inputs(batch: dict) -> Float[Array, "batch *space channels"]:
    """Returns the normalised images of a batch, or the features in their place."""
    return batch["features"] if "features" in batch else batch["image"]
