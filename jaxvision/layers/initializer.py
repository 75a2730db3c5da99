"""Initial values whose spread is exactly what the papers say."""

import functools

import jax
from flax import nnx
from jax.nn.initializers import Initializer

# Standard deviation of a unit normal cut at +-2.
_TRUNCATED_UNIT_STDDEV = 0.87962566103423978


@functools.cache  # one object per value: a module built twice must compare equal
def trunc_normal(stddev: float) -> Initializer:
    """Returns a truncated-normal initialiser whose samples have the standard deviation `stddev`.

    `jax.nn.initializers.truncated_normal(0.02)` cuts at two deviations and so has a deviation of
    only 0.0176. torch's `trunc_normal_(std=0.02)` cuts at +-2 in absolute terms, that is never, and
    has 0.0200.

    Args:
      stddev: Standard deviation after the cut.
    """
    return jax.nn.initializers.truncated_normal(stddev / _TRUNCATED_UNIT_STDDEV)


def redraw_kernels(module: nnx.Module, kernel_init: Initializer, rngs: nnx.Rngs) -> None:
    """Draws the kernel of every linear layer in a module anew.

    Args:
      module: Module whose layers have values already.
      kernel_init: Initialiser of the kernels.
      rngs: Source of the new values.
    """
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, nnx.Linear):
            kernel = layer.kernel[...]
            layer.kernel[...] = kernel_init(rngs.params(), kernel.shape, kernel.dtype)
