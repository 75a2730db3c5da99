"""The dynamic loss scale of float16, whose smallest gradients would otherwise be 0."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

INITIAL_SCALE = 2.0**16
GROWTH_FACTOR = 2.0
BACKOFF_FACTOR = 0.5
GROWTH_INTERVAL = 2_000  # good steps
# Below it a gradient would be made smaller, so that what still overflows is no matter of the scale.
LEAST_SCALE = 1.0


@struct.dataclass
class LossScale:
    """What a loss is multiplied by before its gradient is taken, and what that is divided by.

    Attributes:
      scale: Factor of the loss, float32 scalar, always a power of 2, so that it rounds nothing.
      good_steps: Number of steps with a finite gradient since the scale last changed, int32 scalar.

    Note:
      The defaults and the sequence of scales are those of torch.amp.GradScaler, down to LEAST_SCALE
      where torch would continue to 0.

    Source: Micikevicius et al. 2018, Mixed precision training, section 3.2,
      https://arxiv.org/abs/1710.03740.
    """

    scale: Any
    good_steps: Any

    @classmethod
    def initial(cls) -> "LossScale":
        """Returns the scale of the first step."""
        return cls(jnp.float32(INITIAL_SCALE), jnp.int32(0))

    @property
    def is_least(self) -> jax.Array:
        """Whether the scale cannot fall any further."""
        return self.scale <= LEAST_SCALE

    def after(self, finite: jax.Array) -> "LossScale":
        """Returns the scale of the next step.

        Args:
          finite: Whether this step's gradient was finite.
        """
        good_steps = jnp.where(finite, self.good_steps + 1, 0)
        grow = good_steps == GROWTH_INTERVAL
        larger = self.scale * GROWTH_FACTOR
        larger = jnp.where(jnp.isfinite(larger), larger, self.scale)
        smaller = jnp.maximum(self.scale * BACKOFF_FACTOR, LEAST_SCALE)
        scale = jnp.where(finite, jnp.where(grow, larger, self.scale), smaller)
        return LossScale(scale, jnp.where(grow, 0, good_steps))


def scaled(loss: jax.Array, loss_scale: LossScale | None) -> jax.Array:
    """Returns the loss that the gradient is taken of."""
    return loss if loss_scale is None else loss * loss_scale.scale


def unscaled(grads: Any, loss_scale: LossScale | None) -> Any:
    """Returns the gradient of the loss itself from that of the scaled one."""
    return grads if loss_scale is None else jax.tree.map(lambda x: x / loss_scale.scale, grads)
