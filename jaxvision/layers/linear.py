"""The linear map of tokens and feature maps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jaxvision.layers.adapter import Adapter, adapted
from jaxvision.layers.initializer import trunc_normal

_TRUNC_NORMAL = trunc_normal(0.02)


def flat_product(
    inputs: Float[Array, "*shape width"], kernel: Float[Array, "width features"]
) -> Float[Array, "*shape features"]:
    """Returns inputs @ kernel, computed as one product of two matrices.

    The gradient of the kernel is then a plain product too. With more axes XLA writes a transposed
    copy of the output's gradient first, which costs a CPU a fifth of the product.
    """
    rows = inputs.reshape(-1, inputs.shape[-1])
    outputs = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())))
    return outputs.reshape(*inputs.shape[:-1], kernel.shape[-1])


class Linear(nnx.Linear):
    """nnx's linear layer whose outputs a checkpointed block keeps, see `run_blocks`.

    Attributes:
      adapter: Adapter of the layer, see adapter.py; None: none.
    """

    adapter: Adapter | None = None

    def __call__(self, inputs: Float[Array, "*shape width"]) -> Float[Array, "*shape features"]:
        """Returns inputs @ kernel + bias."""
        return kept(adapted(self.adapter, inputs, super().__call__))

    def product(self, inputs: Float[Array, "*shape width"]) -> Float[Array, "*shape features"]:
        """Returns inputs @ kernel, without the bias that may be there."""
        kernel = self.kernel[...].astype(self.dtype)
        multiply = functools.partial(flat_product, kernel=kernel)
        return kept(adapted(self.adapter, inputs.astype(self.dtype), multiply))


def kept(product: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the result of a product under the name by which a checkpointed block keeps it.

    With its bias: where the sum is kept, a GPU adds the bias inside the product.
    """
    return checkpoint_name(product, "product")


def _dot_general(inputs: jax.Array, kernel: jax.Array, _: Any, **__: Any) -> jax.Array:
    return flat_product(inputs, kernel)


def linear(
    in_features: int,
    out_features: int,
    *,
    use_bias: bool = True,
    kernel_init: jax.nn.initializers.Initializer = _TRUNC_NORMAL,
    dtype: str,
    param_dtype: str,
    rngs: nnx.Rngs,
) -> Linear:
    """Returns a linear layer, inputs @ kernel + bias.

    Args:
      in_features: Size of the last axis of the inputs.
      out_features: Size of the last axis of the outputs.
      use_bias: Whether a bias is added.
      kernel_init: Initialiser of the kernel, by default that of timm's ViT; the bias starts at 0.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.
    """
    return Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(param_dtype),
        dot_general=_dot_general,
        rngs=rngs,
    )
