"""A factor of the learning rate that lies in the optimizer's state.

The host may change it between two steps, and the compiled step stays the same.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class RateFactorState(NamedTuple):
    """State of `scale_by_rate_factor`.

    Attributes:
      rate_factor: Factor of the learning rate, a scalar in the precision of rates.
    """

    rate_factor: Any


def scale_by_rate_factor() -> optax.GradientTransformation:
    """Returns the rule that multiplies updates by the factor of its state, 1 at first."""

    def init(params: Any) -> RateFactorState:
        return RateFactorState(jnp.ones((), jnp.result_type(float)))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, RateFactorState]:
        factor = state.rate_factor
        return jax.tree.map(lambda x: factor.astype(x.dtype) * x, updates), state

    return optax.GradientTransformation(init, update)


def _is_factor(node: Any) -> bool:
    return isinstance(node, RateFactorState)


def rate_factor(opt_state: Any) -> Any:
    """Returns the factor in an optimizer's state; 1 if there is none."""
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_factor)
    return next((node.rate_factor for node in nodes if _is_factor(node)), 1)


def set_rate_factor(opt_state: Any, factor: float) -> Any:
    """Returns the state with another factor, wherever it is, in the same shardings.

    Args:
      opt_state: State of the optimizer, of arrays on the devices.
      factor: Factor of the learning rate; the same in every process.
    """

    def new(array: jax.Array) -> jax.Array:
        value = np.asarray(factor, array.dtype)
        return jax.make_array_from_callback((), array.sharding, lambda _: value)

    return jax.tree.map(
        lambda node: RateFactorState(new(node.rate_factor)) if _is_factor(node) else node,
        opt_state,
        is_leaf=_is_factor,
    )
