"""Parameters that stay as they are, for good or until their step comes."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.traverse_util import unflatten_dict

from jaxvision.layers.norm import BatchNorm
from jaxvision.train.optim.param_groups import Groups
from jaxvision.train.sharding import path_name

_NEVER = np.iinfo(np.int32).max


def is_stacked(path: str) -> bool:
    """Returns whether a path is that of an array which stacks blocks, see block_stack.py."""
    return _stack_position(path.split("/")) is not None


def _stack_position(parts: list[str]) -> int | None:
    """Returns where the number of the block is missing: `blocks/0/...` is a block of its own."""
    for i, (name, after) in enumerate(itertools.pairwise(parts), start=1):
        if name == "blocks" and not after.isdigit():
            return i
    return None


def block_paths(path: str, depth: int) -> list[str]:
    """Returns the path of each block of an array that stacks `depth` of them, else the path."""
    parts = path.split("/")
    position = _stack_position(parts)
    if position is None:
        return [path]
    return ["/".join([*parts[:position], str(i), *parts[position:]]) for i in range(depth)]


def _leaf_paths(path: tuple, leaf: Any) -> list[str]:
    return block_paths(path_name(path), leaf.shape[0] if leaf.shape else 0)


def per_leaf(params: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the value of each array of a tree by its path: a number, or one for each block.

    Args:
      params: Tree of arrays or shapes.
      values: Value of each parameter, by its path with one name for each block.

    Returns:
      Numbers; of a stack with unequal blocks an array that broadcasts against it.
    """
    result = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        found = [values[name] for name in _leaf_paths(path, leaf)]
        if len(set(found)) > 1:
            result[path_name(path)] = np.reshape(found, (-1,) + (1,) * (len(leaf.shape) - 1))
        else:
            result[path_name(path)] = found[0]
    return result


def _flatten(tree: Any) -> dict[str, jax.Array]:
    """Returns {path: array} with one entry for each block."""
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = _leaf_paths(path, leaf)
        stacked = is_stacked(path_name(path))
        flat |= {name: leaf[i] if stacked else leaf for i, name in enumerate(names)}
    return flat


def _unflatten(flat: dict[str, jax.Array], like: Any) -> Any:
    """Returns the inverse of `_flatten`."""

    def leaf_of(path: tuple, leaf: Any) -> jax.Array:
        parts = [flat[name] for name in _leaf_paths(path, leaf)]
        return jnp.stack(parts) if is_stacked(path_name(path)) else parts[0]

    return jax.tree_util.tree_map_with_path(leaf_of, like)


def nested(flat: Mapping[str, Any]) -> dict:
    """Returns {path: value} as nested dicts, with numbers for the blocks as a list of them has."""
    return unflatten_dict(
        {
            tuple(int(part) if part.isdigit() else part for part in path.split("/")): value
            for path, value in flat.items()
        }
    )


class FrozenState(NamedTuple):
    """State of `scheduled_unfreeze`.

    Attributes:
      count: Number of updates made, int32 scalar.
      parts: State of the rule of each starting step, of its parameters alone.
    """

    count: Any
    parts: dict[str, Any]


def scheduled_unfreeze(
    starts: Mapping[str, int | None],
    rules: Mapping[int, optax.GradientTransformation],
    clip: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Returns the optimizer that leaves parameters alone for good, or until their step comes.

    What stays frozen has no state. What waits has a state that does not move: moments and counts
    begin with its first update. Neither takes part in clipping. Updates of both are -0.0, the one
    number that changes no bit of what it is added to.

    Args:
      starts: First step that moves each parameter, by its path with one name for each block; None:
        it stays frozen.
      rules: Rule of each first step, on the `nested` dict of its parameters alone; it counts from
        there.
      clip: Clipping of the gradients of all that is trained at a step; without state.
    """
    members = {start: [n for n, s in starts.items() if s == start] for start in sorted(rules)}

    def init(params: Any) -> FrozenState:
        flat = _flatten(params)
        parts = {
            f"from_{start}": rules[start].init(nested({name: flat[name] for name in names}))
            for start, names in members.items()
        }
        return FrozenState(jnp.zeros((), jnp.int32), parts)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, FrozenState]:
        grads = updates
        flat, values = _flatten(grads), _flatten(params)
        active = {start: state.count >= start for start in members}
        moving = {
            name: jnp.where(active[start], flat[name], 0) if start else flat[name]
            for start, names in members.items()
            for name in names
        }
        trained = nested({name: values[name] for name in moving})
        clipped, _ = clip.update(nested(moving), clip.init(trained), trained)
        moving = _flatten(clipped)
        moves: dict[str, Any] = {}
        parts = {}
        for start, names in members.items():
            part = f"from_{start}"
            new: Any  # of a tree, pyright knows only that it is one
            new, parts[part] = rules[start].update(
                nested({name: moving[name] for name in names}),
                state.parts[part],
                nested({name: values[name] for name in names}),
            )
            new = _flatten(new)
            if start:
                rest = ({name: jnp.full_like(new[name], -0.0) for name in names}, state.parts[part])
                new, parts[part] = jax.tree.map(
                    lambda n, o, now=active[start]: jnp.where(now, n, o), (new, parts[part]), rest
                )
            moves |= new
        for name, grad in flat.items():
            moves.setdefault(name, jnp.full_like(grad, -0.0))
        return _unflatten(moves, grads), FrozenState(state.count + 1, parts)

    return optax.GradientTransformation(init, update)


def stop_frozen_gradients(groups: Groups) -> Callable[[Any, jax.Array], Any] | None:
    """Returns the function (params, updates made) -> params whose gradient leaves out the frozen.

    Inside a loss it keeps the values and stops the gradient, so that nothing is computed for what
    is frozen for good. None if everything is trained from the beginning.
    """
    starts = {
        name: _NEVER if group.start_step is None else group.start_step
        for name, group in groups.items()
    }
    if not any(starts.values()):
        return None

    def hold(params: Any, updates: jax.Array) -> Any:
        bounds = per_leaf(params, starts)

        def one(path: tuple, leaf: jax.Array) -> jax.Array:
            bound = bounds[path_name(path)]
            if isinstance(bound, int):
                if bound == 0:
                    return leaf
                if bound == _NEVER:
                    return jax.lax.stop_gradient(leaf)
            return jnp.where(updates >= bound, leaf, jax.lax.stop_gradient(leaf))

        return jax.tree_util.tree_map_with_path(one, params)

    return hold


def build_with_frozen_stats(
    rngs: nnx.Rngs, *, build: Callable[[nnx.Rngs], nnx.Module], frozen: Iterable[str]
) -> nnx.Module:
    """Returns a model whose BatchNorms at some paths use and keep their running statistics.

    Args:
      rngs: Source of the initial values.
      build: Function that builds the model from `nnx.Rngs`.
      frozen: Paths of the BatchNorms; other modules among them stay as they are.
    """
    model, frozen = build(rngs), set(frozen)
    for path, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm) and "/".join(map(str, path)) in frozen:
            module.frozen = True
    return model
