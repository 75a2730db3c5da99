"""Activations by their name in a config: plain functions, no modules."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

Activation = Callable[[jax.Array], jax.Array]


def relu6(inputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the inputs cut to 0..6.

    Note: the gradient at 0 is 0, as in torch; that of `jax.nn.relu6` is 1/2, and channels that are
      dead sit at exactly 0.
    """
    return jnp.minimum(nnx.relu(inputs), 6.0)


@jax.custom_jvp
def hard_sigmoid(inputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns a sigmoid made of three straight lines, min(max(x + 3, 0), 6) / 6.

    Note: torch's gradient between -3 and 3 is 1 / 6 rounded to float32, in float64 too; so is this
      one. The exact number would be 3e-8 away, and so would all that a squeeze passes back.

    Source: Howard et al. 2019, Searching for MobileNetV3, section 5.2.
    """
    return relu6(inputs + 3.0) / 6.0


@hard_sigmoid.defjvp
def _hard_sigmoid_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (inputs,), (tangent,) = primals, tangents
    slope = jnp.asarray(np.float32(1 / 6), tangent.dtype)
    return hard_sigmoid(inputs), jnp.where(jnp.abs(inputs) < 3.0, tangent * slope, 0.0)


ACTIVATIONS: dict[str, Activation] = {
    "relu": nnx.relu,
    "relu6": relu6,
    "hard_swish": nnx.hard_swish,
    "silu": nnx.silu,
}
