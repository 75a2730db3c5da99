"""Stochastic depth: whole residual branches are dropped, separately for each example."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.dropout import draw_key


def drop_path_rates(final_rate: float, depth: int) -> tuple[float, ...]:
    """Returns the drop probability of each block, rising linearly from 0 to `final_rate`.

    Early blocks build features that everything else depends on, so they are dropped least.

    Args:
      final_rate: Drop probability for the last block, in [0, 1).
      depth: Number of blocks, at least 1.

    Raises:
      ValueError: if `final_rate` is outside [0, 1) or `depth` below 1; the message gives the value.

    Source: Huang et al. 2016, Deep Networks with Stochastic Depth, eq. 4, with the first block at
      0.
    """
    if not 0.0 <= final_rate < 1.0:
        raise ValueError(f"drop_path_rate must be in [0, 1), got {final_rate}.")
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}.")
    return tuple(final_rate * i / max(depth - 1, 1) for i in range(depth))


def stage_drop_path_rates(rate: float, depths: Sequence[int]) -> list[tuple[float, ...]]:
    """Returns the rates of the blocks of each stage, which rise through all stages.

    Args:
      rate: Rate of the very last block.
      depths: Number of blocks of each stage.
    """
    rates = iter(drop_path_rates(rate, sum(depths)))
    return [tuple(itertools.islice(rates, depth)) for depth in depths]


def drop_path(
    branch: Float[Array, "batch ..."],
    rate: float | Float[Array, ""],
    *,
    train: bool,
    rngs: nnx.Rngs | None,
) -> Float[Array, "batch ..."]:
    """Zeroes an example's whole branch with probability `rate`, else scales it by 1 / (1 - rate).

    The rate may be an array, because a scan over blocks carries each block's rate along.

    Args:
      branch: Output of a residual branch, before it is added to the shortcut.
      rate: Probability of dropping, in [0, 1).
      train: Whether dropping is on; False returns the branch as it is.
      rngs: Source of randomness; needed only if `train` and `rate` is not the number 0.

    Raises:
      ValueError: if randomness is needed and `rngs` is None.

    Source: Huang et al. 2016, Deep Networks with Stochastic Depth; scaled in training as timm does.
    """
    if not train or (isinstance(rate, float) and rate == 0.0):
        return branch
    key = draw_key(rngs, "drop path")
    per_example = (branch.shape[0],) + (1,) * (branch.ndim - 1)
    keep = jax.random.bernoulli(key, 1.0 - rate, per_example)
    return jnp.where(keep, branch / jnp.asarray(1.0 - rate, branch.dtype), 0.0)
