"""Update rules that optax does not have, or has otherwise than their authors."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxvision.options.optimizer import OptimizerOptions
from jaxvision.train.optim.freeze import is_stacked
from jaxvision.train.sharding import path_name

_NO_MATRIX = re.compile(r"(^|/)(head(_\w+)?|\w*embed\w*)/")
_TRUST = 1e-3  # of LARS, the authors' coefficient
_RMS = 0.2  # of an update of Muon, about that of AdamW's


class AdanState(NamedTuple):
    """State of `scale_by_adan`.

    Attributes:
      count: Number of updates made, int32 scalar.
      mean: Mean of the gradients.
      mean_difference: Mean of their differences from one step to the next.
      mean_square: Mean of the squares of both together.
      last: Gradient of the last step.
    """

    count: Any
    mean: Any
    mean_difference: Any
    mean_square: Any
    last: Any


def scale_by_adan(*, betas: tuple, eps: float) -> optax.GradientTransformation:
    """Returns the rule of Adan, without its weight decay.

    Args:
      betas: Shares that the means of gradients, differences and squares keep of themselves.
      eps: Number added to the root of the mean square.

    Note:
      As the authors' code and timm's. optax.scale_by_adan turns the paper's betas into those of
      Adam's convention in the means, but not where they are factors of the difference.

    Source: Xie et al. 2022, Adan, algorithm 1, https://arxiv.org/abs/2208.06677.
    """
    b1, b2, b3 = betas

    def init(params: Any) -> AdanState:
        return AdanState(jnp.int32(0), *(optax.tree.zeros_like(params) for _ in range(4)))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AdanState]:
        del params
        grads, count = updates, optax.safe_increment(state.count)
        difference = jax.tree.map(
            lambda g, last: jnp.where(state.count == 0, 0, g - last), grads, state.last
        )
        both = jax.tree.map(lambda g, d: g + b2 * d, grads, difference)
        new = AdanState(
            count,
            optax.tree.update_moment(grads, state.mean, b1, 1),
            optax.tree.update_moment(difference, state.mean_difference, b2, 1),
            optax.tree.update_moment(both, state.mean_square, b3, 2),
            grads,
        )
        mean = optax.tree.bias_correction(new.mean, b1, count)
        mean_difference = optax.tree.bias_correction(new.mean_difference, b2, count)
        square = optax.tree.bias_correction(new.mean_square, b3, count)
        updates = jax.tree.map(
            lambda m, d, n: (m + b2 * d) / (jnp.sqrt(n) + eps), mean, mean_difference, square
        )
        return updates, new

    return optax.GradientTransformation(init, update)


def is_muon_matrix(params: Any) -> Any:
    """Returns True for each parameter that Muon takes as a matrix, in the structure of `params`.

    These are the kernels of linear layers and convolutions, without those of heads, of embeddings
    and of depthwise convolutions.
    """

    def one(path: tuple, leaf: Any) -> bool:
        name = path_name(path)
        block = leaf.shape[1:] if is_stacked(name) else leaf.shape
        is_kernel = name.rpartition("/")[2] == "kernel" and _NO_MATRIX.search(name) is None
        return is_kernel and len(block) >= 2 and block[-2] > 1

    return jax.tree_util.tree_map_with_path(one, params)


def orthogonalise() -> optax.GradientTransformation:
    """Returns the rule that makes each matrix nearly orthogonal, block by block.

    The last axis is the outputs, those before it are the inputs. An update has the root mean square
    of AdamW's, so that rate and weight decay suit both.

    Source: Jordan et al. 2024, Muon; Liu et al. 2025, Muon is Scalable for LLM Training, eq. 4.
    """

    def one(path: tuple, update: jax.Array) -> jax.Array:
        first = int(is_stacked(path_name(path)))
        inputs, outputs = tuple(range(first, update.ndim - 1)), update.ndim - 1
        # With beta 0 it keeps no momentum. Its own momentum corrects the bias, torch's does not.
        muon: Any = optax.contrib.scale_by_muon(
            beta=0.0,
            eps=1e-20,  # beside the norm; torch's is its least value
            nesterov=False,
            weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(inputs, (outputs,)),
        )
        orthogonal, _ = muon.update(update, muon.init(update))
        fan_in, fan_out = math.prod(update.shape[i] for i in inputs), update.shape[outputs]
        return _RMS * math.sqrt(max(fan_in, fan_out)) * orthogonal

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(one, updates))


def scale_by_lars(decays: Mapping[str, Any]) -> optax.GradientTransformation:
    """Returns the rule that adds the weight decay and gives each array a rate by its norms.

    Args:
      decays: Weight decay of each parameter by its path, see `per_leaf`.

    Note: optax.lars divides by the norm of the sum of gradient and decay, here and in timm it is
      the sum of the norms.

    Source: You et al. 2017, Large Batch Training of Convolutional Networks, eq. 6.
    """

    def one(update: jax.Array, param: jax.Array, decay: jax.Array) -> jax.Array:
        size, slope = (jnp.sqrt(jnp.sum(jnp.square(x))) for x in (param, update))
        trust = _TRUST * size / (slope + decay * size + 1e-8)
        trust = jnp.where((size > 0) & (slope > 0), trust, 1.0)
        return trust * (update + decay * param)

    def each(path: tuple, update: jax.Array, param: jax.Array) -> jax.Array:
        name = path_name(path)
        decay = jnp.asarray(decays[name], param.dtype)
        if is_stacked(name):
            return jax.vmap(one)(update, param, jnp.broadcast_to(decay.ravel(), update.shape[:1]))
        return one(update, param, decay)

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(each, updates, params)
    )


def prodigy(
    options: OptimizerOptions, schedule: optax.Schedule, decay: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Returns the rule of Prodigy, which finds its rate itself: the schedule is a factor of it.

    Args:
      options: Options of the optimizer.
      schedule: Learning rate by the number of updates.
      decay: Rule that adds the decayed weights.

    Source: Mishchenko and Defazio 2023, Prodigy, algorithm 4, https://arxiv.org/abs/2306.06101.
    """
    b1, b2 = options.b1, options.b2
    rule: Any = optax.contrib.prodigy(schedule, (b1, b2), eps=options.eps)

    def init(params: Any) -> Any:
        # A copy: it keeps the first weights, and a donated state must not hold one buffer twice.
        return rule.init(jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moves, new = rule.update(updates, state, params)
        bias = (1 - b2**new.count) ** 0.5 / (1 - b1**new.count)
        rate = state.estim_lr * schedule(state.count) * bias
        nothing = optax.tree.zeros_like(params)
        decayed, _ = decay.update(nothing, decay.init(params), params)
        return jax.tree.map(lambda m, d: m - rate.astype(d.dtype) * d, moves, decayed), new

    return optax.GradientTransformation(init, update)
