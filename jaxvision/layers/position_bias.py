"""What attention in a window adds to its scores for the step from one token to another."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.initializer import trunc_normal
from jaxvision.layers.linear import linear
from jaxvision.layers.window import Sides, log_spaced_coordinates, relative_position_index


class RelativePositionBias(nnx.Module):
    """A learned number for each step and head.

    Args:
      window: Rows and columns of a window.
      num_heads: Number of attention heads.
      param_dtype: Dtype of the table.
      rngs: Source of the initial values: trunc-normal 0.02.

    Source: Liu et al. 2021, Swin Transformer, eq. 4.
    """

    def __init__(self, window: Sides, num_heads: int, *, param_dtype: str, rngs: nnx.Rngs):
        shape = ((2 * window[0] - 1) * (2 * window[1] - 1), num_heads)
        self.table = nnx.Param(trunc_normal(0.02)(rngs.params(), shape, jnp.dtype(param_dtype)))
        self.window = window

    def __call__(self) -> Float[Array, "1 heads tokens tokens"]:
        """Returns the bias of the scores in every window."""
        return _spread(self.table[...], self.window)


class ContinuousPositionBias(nnx.Module):
    """A number for each step and head that a small MLP computes of the step's coordinates.

    It knows steps of any length, so that a window may grow after training.

    Args:
      window: Rows and columns of a window.
      num_heads: Number of attention heads.
      unit: Rows and columns of the window that the model was trained with.
      param_dtype: Dtype of the parameters and of the arithmetic.
      rngs: Source of the initial values: kernels trunc-normal 0.02, bias 0.

    Source: Liu et al. 2022, Swin Transformer V2, section 3.3; 512 hidden channels and the bound of
      16 are those of the authors' code.
    """

    def __init__(
        self, window: Sides, num_heads: int, *, unit: Sides, param_dtype: str, rngs: nnx.Rngs
    ):
        dtypes: dict[str, Any] = {"dtype": param_dtype, "param_dtype": param_dtype}
        self.fc1 = linear(2, 512, rngs=rngs, **dtypes)
        self.fc2 = linear(512, num_heads, use_bias=False, rngs=rngs, **dtypes)
        self.window = window
        self.unit = unit

    def __call__(self) -> Float[Array, "1 heads tokens tokens"]:
        """Returns the bias of the scores in every window, between 0 and 16."""
        coordinates = jnp.asarray(log_spaced_coordinates(self.window, self.unit))
        table = self.fc2(nnx.relu(self.fc1(coordinates)))
        return _spread(16.0 * nnx.sigmoid(table), self.window)


def _spread(
    table: Float[Array, "steps heads"], window: Sides
) -> Float[Array, "1 heads tokens tokens"]:
    """Returns the table's number for each pair of tokens of a window."""
    index = relative_position_index(window)
    columns = table.T.at[:, jnp.asarray(index.ravel())].get(mode="promise_in_bounds")
    return columns.reshape(1, -1, *index.shape)
