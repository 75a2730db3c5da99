"""A task from outside the package: classes with an order, such as ages or grades.

`python launch.py --config=configs/smoke.py --config.task=ordered_task:Ordered \\
    --config.checkpoint.best_metric=eval/distance_loss --workdir=runs/ordered`
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxvision.tasks.classification import Classification


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ordered(Classification):
    """Classification that also pays for how far from the true class it guesses."""

    metrics = (*Classification.metrics, "distance_loss")

    def loss(self, model, batch, *, rngs):
        """Adds the expected distance to the cross-entropy."""
        logits = model(batch["image"], train=True, rngs=rngs)
        distance = jnp.mean(_distance(logits, batch["label"]))
        losses = self.label_losses(logits, batch["label"])
        return jnp.mean(losses) + 0.1 * distance, {"distance": distance}

    def evaluate(self, model, batch):
        """Adds the distance to what an evaluation tells."""
        distance = _distance(model(batch["image"]), batch["label"])
        total = jnp.sum(jnp.where(batch["mask"], distance, 0.0))
        return super().evaluate(model, batch) | {"distance_loss": (total, jnp.sum(batch["mask"]))}


def _distance(logits, labels):
    classes = jnp.arange(logits.shape[-1])
    return jnp.sum(jax.nn.softmax(logits) * jnp.abs(classes[None] - labels[:, None]), axis=-1)
