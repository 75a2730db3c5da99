"""Image classification: what a batch of images and labels means."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision.metrics.classification import topk_correct
from jaxvision.metrics.losses import binary_cross_entropy, softmax_cross_entropy


@dataclasses.dataclass(frozen=True)
class Classification:
    """Loss and exact evaluation of an image classifier.

    Attributes:
      label_smoothing: probability mass spread evenly over all classes, in [0, 1).
      loss_name: `softmax_cross_entropy` or `bce`, of training; evaluations tell the former.
      target_threshold: of bce, see `binary_cross_entropy`.
    """

    label_smoothing: float = 0.0
    loss_name: str = "softmax_cross_entropy"
    target_threshold: float = 0.0

    def prepare(self, batch: dict) -> dict:
        """Returns a training batch with what its loss needs; here, as it is."""
        return batch

    def loss(self, model: nnx.Module, batch: dict, *, rngs: nnx.Rngs) -> tuple:
        """Returns the mean loss of a training batch and its float32 scalar metrics.

        Labels are class indices [B], or probabilities [B, K] after mixup or cutmix. Against mixed
        labels there is no accuracy, so none is reported.
        """
        logits = model(batch["image"], train=True, rngs=rngs)
        return jnp.mean(self.label_losses(logits, batch["label"])), accuracy(logits, batch["label"])

    def label_losses(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns the loss of each example against its label, [B]."""
        if self.loss_name == "bce":
            return binary_cross_entropy(
                logits,
                labels,
                label_smoothing=self.label_smoothing,
                target_threshold=self.target_threshold,
            )
        return softmax_cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def evaluate(self, model: nnx.Module, batch: dict) -> dict:
        """Returns {metric: (sum, count)} over the valid examples of a batch."""
        logits = model(batch["image"])
        values = {
            "loss": softmax_cross_entropy(logits, batch["label"]),
            "accuracy": topk_correct(logits, batch["label"], k=1),
            "top5_accuracy": topk_correct(logits, batch["label"], k=5),
        }
        count = jnp.sum(batch["mask"])
        # where, not multiplication: padding may hold anything, also a non-finite loss.
        return {
            name: (jnp.sum(jnp.where(batch["mask"], value, 0.0)), count)
            for name, value in values.items()
        }


def accuracy(logits: jax.Array, labels: jax.Array) -> dict:
    """Returns the accuracy of a batch as a metric; none against mixed labels [B, K]."""
    return {"accuracy": jnp.mean(topk_correct(logits, labels, k=1))} if labels.ndim == 1 else {}
