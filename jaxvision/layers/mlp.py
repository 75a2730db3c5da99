import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.dropout import dropout
from jaxvision.layers.linear import linear


def gelu(inputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the exact GELU, x * Phi(x), in the form that torch computes it.

    Note: torch's default; `jax.nn.gelu` defaults to the tanh approximation, which is 5e-4 away, and
      its exact form takes twice as long on a CPU for digits of the far tail.
    """
    wide = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
    return (wide * (0.5 + 0.5 * jax.lax.erf(wide * 0.5**0.5))).astype(inputs.dtype)


class Mlp(nnx.Module):
    """Two linear layers with an activation between them; dropout follows each of the two.

    Initial values as timm's ViT: kernels trunc-normal 0.02, biases 0.

    Args:
      width: Number of channels in and out.
      hidden: Number of channels between the two layers.
      activation: Activation, a plain function (a lambda would make equal models compare unequal).
      dropout_rate: Probability of dropping an element.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Source: Vaswani et al. 2017, Attention Is All You Need, section 3.3.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: Callable[[jax.Array], jax.Array] = gelu,
        dropout_rate: float = 0.0,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        make = functools.partial(linear, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.fc1 = make(width, hidden)
        self.fc2 = make(hidden, width)
        self.activation = activation
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        tokens: Float[Array, "batch *space width"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch *space width"]:
        """Returns the new tokens; `rngs` is needed only if `train` and the rate is > 0."""
        hidden = dropout(self.hidden(tokens), self.dropout_rate, train=train, rngs=rngs)
        return dropout(self.fc2(hidden), self.dropout_rate, train=train, rngs=rngs)

    def hidden(self, tokens: Float[Array, "batch *space width"]) -> jax.Array:
        """Returns what the second layer reads."""
        return self.activation(self.fc1(tokens))


class GatedMlp(Mlp):
    """MLP whose hidden channels are multiplied by those of a second layer beside it: SwiGLU.

    Initial values as those of `Mlp`. timm keeps the two layers in one array, the gate first.

    Args:
      width: Number of channels in and out.
      hidden: Number of channels behind the gate.
      activation: Activation of the gate.
      dropout_rate: Probability of dropping an element.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Source: Shazeer 2020, GLU Variants Improve Transformer, eq. 6, https://arxiv.org/abs/2002.05202.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: Callable[[jax.Array], jax.Array] = nnx.silu,
        dropout_rate: float = 0.0,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        dtypes: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        super().__init__(
            width, hidden, activation=activation, dropout_rate=dropout_rate, rngs=rngs, **dtypes
        )
        self.gate = linear(width, hidden, rngs=rngs, **dtypes)

    def hidden(self, tokens: Float[Array, "batch *space width"]) -> jax.Array:
        """Returns what the second layer reads."""
        return self.activation(self.gate(tokens)) * self.fc1(tokens)
