"""Activations by their name in a config: plain functions, no modules.

JAX's own are compiled functions, which neither `pickle` nor `copy.deepcopy` takes, so that a layer
keeps one of these.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.mlp import gelu

Activation = Callable[[jax.Array], jax.Array]


def relu(inputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the inputs, and 0 for those below."""
    return nnx.relu(inputs)


@jax.custom_jvp
def relu_of_sum(inputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the same for the sum of a branch and its shortcut.

    The gradient asks the outputs which inputs were positive: the next layer keeps them anyway. That
    of `relu` computes the sum again, and reads all that it was computed of.
    """
    return jnp.maximum(inputs, 0.0)


@relu_of_sum.defjvp
def _relu_of_sum_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    # Without the barrier XLA asks the inputs.
    outputs = jax.lax.optimization_barrier(relu_of_sum(*primals))
    return outputs, jnp.where(outputs > 0.0, tangents[0], 0.0)


def silu(inputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the inputs times their sigmoid."""
    return nnx.silu(inputs)


def hard_swish(inputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the inputs times three straight lines in place of their sigmoid."""
    return nnx.hard_swish(inputs)


def relu6(inputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the inputs cut to 0..6.

    Note: the gradient at 0 is 0, as in torch; that of `jax.nn.relu6` is 1/2, and channels that are
      dead sit at exactly 0.
    """
    return jnp.minimum(nnx.relu(inputs), 6.0)


def quick_gelu(inputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns x * sigmoid(1.702 x), the GELU of CLIP."""
    return inputs * nnx.sigmoid(1.702 * inputs)


def gelu_tanh(inputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the GELU by its tanh approximation."""
    return jax.nn.gelu(inputs, approximate=True)


def sigmoid(inputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns 1 / (1 + exp(-x))."""
    return nnx.sigmoid(inputs)


def hard_sigmoid(inputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns a sigmoid made of three straight lines, min(max(x + 3, 0), 6) / 6.

    Note: torch's gradient between -3 and 3 is 1 / 6 rounded to float32, in float64 too; so is this
      one. The exact number would be 3e-8 away, and so would all that a squeeze passes back.

    Source: Howard et al. 2019, Searching for MobileNetV3, section 5.2.
    """
    return _hard_sigmoid(inputs)


@jax.custom_jvp
def _hard_sigmoid(inputs: jax.Array) -> jax.Array:
    return relu6(inputs + 3.0) / 6.0


@_hard_sigmoid.defjvp
def _hard_sigmoid_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (inputs,), (tangent,) = primals, tangents
    slope = jnp.asarray(np.float32(1 / 6), tangent.dtype)
    return _hard_sigmoid(inputs), jnp.where(jnp.abs(inputs) < 3.0, tangent * slope, 0.0)


ACTIVATIONS: dict[str, Activation] = {
    "relu": relu,
    "relu6": relu6,
    "hard_swish": hard_swish,
    "silu": silu,
}
GELUS: dict[str, Activation] = {
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "gelu_tanh": gelu_tanh,
}
