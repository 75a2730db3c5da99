"""The optimizer: clipping, weight decay by parameter name, the update rule, parameter groups."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.options.optimizer import OptimizerOptions
from jaxvision.train.optim.freeze import is_stacked, nested, per_leaf, scheduled_unfreeze
from jaxvision.train.optim.param_groups import Groups, ParamGroup, param_names
from jaxvision.train.optim.rate_factor import scale_by_rate_factor
from jaxvision.train.optim.update_rules import (
    is_muon_matrix,
    orthogonalise,
    prodigy,
    scale_by_adan,
    scale_by_lars,
)
from jaxvision.train.sharding import path_name

# The last name of a parameter's path says whether weight decay pulls it to zero. The number of
# dimensions would not do: the blocks of a transformer may be stacked, and then a bias has two.
# What else a model has is in `not_decayed` of its class.
DECAYED = frozenset({"kernel", "embedding", "lora_a", "lora_b"})
NOT_DECAYED = frozenset(
    {
        "bias",
        "scale",  # of norms
        "gamma",  # of LayerScale
        "cls_token",
        "pos_embed",
        "ia3_inputs",
        "ia3_outputs",
    }
)


def make_optimizer(
    params: Any,
    options: OptimizerOptions,
    *,
    schedule: optax.Schedule,
    groups: Groups | None = None,
    not_decayed: frozenset[str] = frozenset(),
    upper_bounds: Mapping[str, float] | None = None,
    with_rate_factor: bool = False,
) -> optax.GradientTransformation:
    """Returns the gradient transformation of a run.

    First the gradient is clipped, unit by unit and then by its global norm, then the rule and the
    weight decay follow. Each rule keeps the conventions of its PyTorch peer, so that published
    recipes keep their numbers.

    The rules are `adamw`, `adam`, `sgd`, `rmsprop`, `muon` and `nadamw` (NAdam without its decay of
    the momentum) of torch.optim; `lamb`, `lion`, `adan` (no_prox), `adopt`, `lars` and `rmsprop_tf`
    of timm; `prodigy` of prodigyopt; `schedule_free_adamw` and `schedule_free_sgd` of schedulefree.
    rmsprop_tf has TensorFlow's epsilon under the root, begins with a mean square of 1 and has the
    learning rate in its momentum. muon is adamw for all that is no matrix, see `is_muon_matrix`.
    Weight decay is added to the gradient before anything else for adam, sgd, lars, rmsprop and
    rmsprop_tf (L2); part of the rescaled update for lamb; decoupled and scaled by the learning
    rate for the others.

    Args:
      params: Nested dict of arrays or of `jax.ShapeDtypeStruct`; only names and shapes are read.
      options: Options of the optimizer: the name of the rule and its numbers.
      schedule: Learning rate by the number of updates, see `make_schedule`.
      groups: Group of every parameter, see `assign_groups`; None: all are trained alike.
      not_decayed: Names of further parameters without weight decay, beside NOT_DECAYED, see
        `not_decayed_names`.
      upper_bounds: Largest value of parameters by their name, which no update exceeds; None: none
        has one.
      with_rate_factor: Whether the state keeps a factor of all rates, see rate_factor.py.

    Raises:
      InputError: if it is not decided whether a parameter is decayed.

    Note:
      The global norm is clipped as torch's clip_grad_norm_ does, which divides by norm + 1e-6;
      optax divides by the norm. lamb rescales the update of each decayed array; of stacked blocks,
      that of each block, so that stacking changes nothing. Query, key and value are arrays of their
      own here, where timm's `qkv` is one.

    Source: Loshchilov and Hutter 2019 (AdamW); You et al. 2020 (LAMB); Chen et al. 2023 (Lion);
      Brock et al. 2021, NFNets, eq. 3 (adaptive clipping); Dozat 2016 (NAdam); Taniguchi et al.
      2024 (ADOPT); Defazio et al. 2024, The Road Less Scheduled; see update_rules.py for others.
    """
    name, momentum = options.name, options.momentum
    shapes = param_names(params)
    groups = dict.fromkeys(shapes, ParamGroup()) if groups is None else groups
    adam = optax.scale_by_adam(b1=options.b1, b2=options.b2, eps=options.eps)
    nadam = optax.scale_by_adam(b1=options.b1, b2=options.b2, eps=options.eps, nesterov=True)
    adopt = optax.contrib.scale_by_adopt(b1=options.b1, b2=options.b2, eps=options.eps)
    rms = optax.scale_by_rms(
        decay=options.b2,
        eps=options.eps,
        initial_scale=float(name == "rmsprop_tf"),
        eps_in_sqrt=name == "rmsprop_tf",
    )
    nesterov = options.nesterov and name in ("sgd", "muon", "lars")
    trace = [optax.trace(decay=momentum, nesterov=nesterov)] if momentum else []

    def rule(params: Any, *, start: int) -> optax.GradientTransformation:
        """Returns the update rule of a tree of parameters that are trained from `start` on."""
        mask = decay_mask(params, not_decayed)
        decay_of = {n: options.weight_decay * g.weight_decay for n, g in groups.items()}
        decays = per_leaf(params, decay_of)
        decay = optax.masked(_add_decayed_weights(decays), mask)
        rate = _learning_rates(params, groups, schedule, start)
        if with_rate_factor:
            rate.append(scale_by_rate_factor())
        if name == "lamb":
            # optax.lamb also rescales biases and norms, which the authors' and timm's code leave
            # alone.
            rescale = optax.masked(_blockwise(optax.scale_by_trust_ratio()), mask)
            return optax.chain(adam, decay, rescale, *rate)
        if name == "prodigy":
            shifted = (lambda count: schedule(count + start)) if start else schedule
            factors = per_leaf(params, {n: g.learning_rate for n, g in groups.items()})
            factor = [scale_by_rate_factor()] if with_rate_factor else []
            return optax.chain(prodigy(options, shifted, decay), *_multiply(factors), *factor)
        if options.is_schedule_free:
            unscaled = optax.scale_by_rms(
                options.b2, options.eps, eps_in_sqrt=False, bias_correction=True
            )
            scale = [unscaled] if name == "schedule_free_adamw" else []
            return optax.contrib.schedule_free(
                optax.chain(*scale, decay, *rate),
                lambda count: schedule(count - 1 + start),  # it counts from 1
                b1=options.averaged_share,
            )
        if name == "muon":
            matrix = is_muon_matrix(params)
            rest = jax.tree.map(lambda is_matrix: not is_matrix, matrix)
            muon = optax.masked(optax.chain(*trace, orthogonalise()), matrix)
            return optax.chain(muon, optax.masked(adam, rest), decay, *rate)
        if name == "lars":
            lars = optax.masked(scale_by_lars(decays), mask)
            return optax.chain(lars, *trace, *rate)
        if name == "lion":
            return optax.chain(optax.scale_by_lion(b1=options.b1, b2=options.b2), decay, *rate)
        steps = {
            "adamw": [adam, decay, *rate],
            "adam": [decay, adam, *rate],
            "nadamw": [nadam, decay, *rate],
            "adan": [scale_by_adan(betas=options.adan_betas, eps=options.eps), decay, *rate],
            "adopt": [adopt, decay, *rate],
            "sgd": [decay, optax.chain(*(trace or [optax.identity()]), *rate)],
            "rmsprop": [decay, rms, *trace, *rate],
            "rmsprop_tf": [decay, rms, *rate, *trace],
        }
        return optax.chain(*steps[name])

    def clip(params: Any) -> list[optax.GradientTransformation]:
        steps = []
        if options.clip_factor:
            steps.append(_clip_units(params, options.clip_factor))
        if options.clip_norm:
            steps.append(_clip_norm(options.clip_norm))
        return steps

    starts = {n: group.start_step for n, group in groups.items()}
    bounded = [_keep_below(upper_bounds)] if upper_bounds else []
    if not any(start != 0 for start in starts.values()):
        steps = [*clip(params), rule(params, start=0), *bounded]
        return optax.chain(*steps) if len(steps) > 1 else steps[0]
    trained = nested({n: x for n, x in shapes.items() if starts[n] is not None})
    rules = {
        start: rule(nested({n: x for n, x in shapes.items() if starts[n] == start}), start=start)
        for start in {s for s in starts.values() if s is not None}
    }
    whole = scheduled_unfreeze(starts, rules, optax.chain(optax.identity(), *clip(trained)))
    return optax.chain(whole, *bounded) if bounded else whole


def _keep_below(bounds: Mapping[str, float]) -> optax.GradientTransformation:
    """Returns a last step that cuts updates where a parameter would exceed its bound."""

    def cut(path: tuple, update: jax.Array, param: jax.Array) -> jax.Array:
        bound = bounds.get(path_name(path).rpartition("/")[2])
        return update if bound is None else jnp.minimum(update, bound - param)

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(cut, updates, params)
    )


def not_decayed_names(model: nnx.Module) -> frozenset[str]:
    """Returns what the classes of a model and of its modules declare as `not_decayed`.

    Names of parameters, and of modules all of whose parameters weight decay leaves alone.
    """
    declared = (getattr(module, "not_decayed", ()) for _, module in nnx.iter_modules(model))
    return frozenset(itertools.chain.from_iterable(declared))


def decay_mask(params: Any, not_decayed: frozenset[str] = frozenset()) -> Any:
    """Returns True for each parameter that weight decay applies to, in the structure of `params`.

    Args:
      params: Nested dict of arrays or shapes.
      not_decayed: Names of further parameters without weight decay, beside NOT_DECAYED, see
        `not_decayed_names`.

    Raises:
      InputError: naming every parameter of which it is not decided.
    """
    unknown = []

    def decays(path: tuple, _: Any) -> bool:
        parts = path_name(path).split("/")
        if parts[-1] in NOT_DECAYED or not not_decayed.isdisjoint(parts):
            return False
        if parts[-1] not in DECAYED:
            unknown.append("/".join(parts))
        return True

    mask = jax.tree_util.tree_map_with_path(decays, params)
    if unknown:
        names = ", ".join(sorted({repr(path.rpartition("/")[2]) for path in unknown}))
        raise InputError(
            f"Weight decay is not decided for {', '.join(unknown)}: name a parameter that is "
            f"decayed kernel or embedding, or add {names} to `not_decayed` of the model's class."
        )
    return mask


def _add_decayed_weights(decays: Mapping[str, Any]) -> optax.GradientTransformation:
    """Returns the rule that adds each parameter times its own decay, given by its path."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def add(path: tuple, update: jax.Array, param: jax.Array) -> jax.Array:
            decay = decays[path_name(path)]
            return update + jnp.asarray(decay, param.dtype) * param

        return jax.tree_util.tree_map_with_path(add, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _learning_rates(
    params: Any, groups: Groups, schedule: optax.Schedule, start: int
) -> list[optax.GradientTransformation]:
    """Returns the rules that multiply each update by minus its learning rate.

    They count the updates of their own parameters from `start` on, a schedule those of the run.
    """
    factors = per_leaf(params, {n: g.learning_rate for n, g in groups.items()})
    own = {n: groups[n].schedule or schedule for n in param_names(params)}
    distinct = list(dict.fromkeys(own.values()))
    shifted = [lambda count, s=s: s(count + start) for s in distinct] if start else distinct
    if len(distinct) == 1:
        return [*_multiply(factors), optax.scale_by_learning_rate(shifted[0])]
    places = per_leaf(params, {n: distinct.index(s) for n, s in own.items()})

    def init(params: Any) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        rates = jnp.stack([one(state.count) for one in shifted])

        def scale(path: tuple, update: jax.Array) -> jax.Array:
            return -rates[places[path_name(path)]].astype(update.dtype) * update

        state = optax.ScaleByScheduleState(optax.safe_increment(state.count))
        return jax.tree_util.tree_map_with_path(scale, updates), state

    return [*_multiply(factors), optax.GradientTransformation(init, update)]


def _multiply(factors: Mapping[str, Any]) -> list[optax.GradientTransformation]:
    """Returns the rule that multiplies each update by its own factor, or none if all are 1."""
    if all(np.all(np.asarray(factor) == 1) for factor in factors.values()):
        return []

    def one(path: tuple, update: jax.Array) -> jax.Array:
        return jnp.asarray(factors[path_name(path)], update.dtype) * update

    return [optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(one, updates))]


def _clip_norm(greatest: float) -> optax.GradientTransformation:
    """Returns clipping by the global norm, as torch.nn.utils.clip_grad_norm_ does."""

    def clip(updates: Any, _: Any) -> Any:
        factor = jnp.minimum(greatest / (optax.tree.norm(updates) + 1e-6), 1.0)
        return jax.tree.map(lambda update: update * factor.astype(update.dtype), updates)

    return optax.stateless(clip)


def _clip_units(params: Any, factor: float) -> optax.GradientTransformation:
    """Returns adaptive clipping of all but the head; a unit is what feeds one output."""
    mask = jax.tree_util.tree_map_with_path(
        lambda path, _: re.search(r"(^|/)head(_\w+)?/", path_name(path)) is None, params
    )

    def clip(update: jax.Array, param: jax.Array) -> jax.Array:
        axes = tuple(range(param.ndim - 1)) or None  # of a bias the whole array is one unit
        norms = (jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True)) for x in (update, param))
        norm, greatest = next(norms), factor * jnp.maximum(next(norms), 1e-3)
        clipped = update * (greatest / jnp.maximum(norm, 1e-6))
        return jnp.where(norm < greatest, update, clipped)

    return optax.masked(_blockwise_map(clip), mask)


def _blockwise(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns a stateless rule that treats each block of an array that stacks blocks by itself."""
    return _blockwise_map(lambda update, param: rule.update(update, rule.init(param), param)[0])


def _blockwise_map(one: Any) -> optax.GradientTransformation:
    """Returns the rule (update, parameter) -> update, block by block."""

    def each(path: tuple, update: jax.Array, param: jax.Array) -> Any:
        return (jax.vmap(one) if is_stacked(path_name(path)) else one)(update, param)

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(each, updates, params)
    )
