"""A stack of equal blocks: kept as a list, or as one block whose leaves have a leading depth axis.

The stacked form lets `jax.lax.scan` compile a single block however deep the model is. Both forms
start from the same values and compute the same outputs. Files on disk always use the names of the
list, so that weights do not depend on how the model was run; `stack_blocks` and `unstack_blocks`
translate.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxvision.layers.counting_rngs import counting_rngs
from jaxvision.layers.tap import is_capturing
from jaxvision.target_platform import target_platform

# Whether blocks are stacked: "auto" does where it is faster, see `build_blocks`.
Scan = bool | Literal["auto"]
# Of the backward pass: False, True or "offload", see `run_blocks`.
Remat = bool | Literal["offload"]
_CARRY = "carry of a block"

Step = Callable[[Any, Any, jax.Array | float, nnx.Rngs | None], tuple[Any, Any]]


def build_blocks(make: Callable[[nnx.Rngs], Any], depth: int, *, scan: Scan, rngs: nnx.Rngs) -> Any:
    """Returns `depth` blocks, each initialised from its own key.

    Args:
      make: Function that builds one block. All blocks must have equal shapes.
      depth: Number of blocks, at least 1.
      scan: Whether the blocks are stacked: True returns one block with stacked leaves, False an
        `nnx.List`. "auto" is False on a GPU, where a loop fills and copies the stacks of what the
        backward pass keeps, and True elsewhere.
      rngs: Source of the initial values.

    Raises:
      ValueError: if `scan` is none of the three.
    """
    if scan not in (True, False, "auto"):
        raise ValueError(f"scan must be True, False or auto, got {scan!r}.")
    if scan == "auto":
        scan = target_platform() != "gpu"
    keys = jax.random.split(rngs.params(), depth)
    if not scan:
        return nnx.List([make(counting_rngs({"params": key})) for key in keys])
    return nnx.vmap(lambda key: make(counting_rngs({"params": key})))(keys)


def run_blocks(
    blocks: Any,
    carry: Any,
    step: Step | tuple[Step, ...],
    *,
    rates: Sequence[float],
    key: jax.Array | None = None,
    remat: Remat = False,
) -> tuple[Any, Any]:
    """Runs the blocks one after the other.

    Args:
      blocks: Blocks that `build_blocks` returned.
      carry: Value that goes into the first block, e.g. tokens.
      step: Function (block, carry, drop-path rate, rngs) -> (carry, output). The rate is the number
        0.0 if no block has one. `rngs` is None without a key. Must not change the block: a scan
        would lose the change. Several steps take turns, so that blocks of equal shapes may do
        unequal things.
      rates: Drop-path rate of each block.
      key: Key for the randomness of all blocks together.
      remat: Kind of rematerialisation: True keeps only the carry of each block for the backward
        pass and computes the rest again; "offload" keeps it in the memory of the host, from where
        it comes back block by block; False keeps the matrix products too.

    Returns:
      The last carry, and the outputs of all blocks stacked on a leading axis.
    """
    depth = len(rates)
    keys = None if key is None else jax.random.split(key, depth)
    rate_array = jnp.asarray(rates, jnp.float32) if any(rates) else None

    steps = step if isinstance(step, tuple) else (step,)
    if is_capturing():  # no tapped value leaves a loop or a rematerialised block
        inputs = [(_at_block(blocks, i), *_at((rate_array, keys), i)) for i in range(depth)]
        return _take_turns([functools.partial(_run_block, each) for each in steps], carry, inputs)
    policy = _offload_carry if remat == "offload" else None if remat else _keep_products
    if remat == "offload":
        steps = tuple(_named_carry(each) for each in steps)

    def bodies(*, in_loop: bool) -> list[Callable]:
        # A loop cannot be merged with its recomputation; unrolled blocks could be.
        checkpoint = functools.partial(jax.checkpoint, policy=policy, prevent_cse=not in_loop)
        return [checkpoint(functools.partial(_run_block, each)) for each in steps]

    if isinstance(blocks, nnx.List):
        inputs = [(_at_block(blocks, i), *_at((rate_array, keys), i)) for i in range(depth)]
        return _take_turns(bodies(in_loop=False), carry, inputs)
    inputs = (blocks, rate_array, keys)
    if len(steps) == 1:
        return jax.lax.scan(bodies(in_loop=True)[0], carry, inputs)
    return _scan_in_turns(bodies, carry, inputs, depth)


def _run_block(step: Step, carry: Any, block_inputs: Any) -> tuple[Any, Any]:
    block, rate, key = block_inputs
    # An Rngs from outside would hand the same numbers to every block: FLAX counts do not leave
    # here.
    rngs = None if key is None else nnx.Rngs(dropout=key)
    return step(block, carry, 0.0 if rate is None else rate, rngs)


def _take_turns(bodies: list[Callable], carry: Any, inputs: list[Any]) -> tuple[Any, Any]:
    """Runs blocks one after the other, block i by body i, i modulo the number of bodies."""
    outputs = []
    for i, block_inputs in enumerate(inputs):
        carry, output = bodies[i % len(bodies)](carry, block_inputs)
        outputs.append(output)
    return carry, jax.tree.map(lambda *values: jnp.stack(values), *outputs)


def _scan_in_turns(
    make_bodies: Callable[..., list[Callable]], carry: Any, inputs: Any, depth: int
) -> tuple[Any, Any]:
    """Scans over groups of one block for each body; a last incomplete group runs behind it."""
    bodies = make_bodies(in_loop=True)
    size = len(bodies)
    scanned = depth // size * size if depth > size else 0  # one group needs no loop

    def group(carry: Any, inputs: Any) -> tuple[Any, Any]:
        return _take_turns(bodies, carry, [_at(inputs, i) for i in range(size)])

    parts = []
    if scanned:
        groups = jax.tree.map(lambda x: x[:scanned].reshape(-1, size, *x.shape[1:]), inputs)
        carry, outputs = jax.lax.scan(group, carry, groups)
        parts.append(jax.tree.map(lambda x: x.reshape(scanned, *x.shape[2:]), outputs))
    if scanned < depth:
        rest = [_at(inputs, i) for i in range(scanned, depth)]
        carry, outputs = _take_turns(make_bodies(in_loop=False), carry, rest)
        parts.append(outputs)
    return carry, jax.tree.map(lambda *values: jnp.concatenate(values), *parts)


def _at_block(blocks: Any, i: int) -> Any:
    return blocks[i] if isinstance(blocks, nnx.List) else _at(blocks, i)


def _at(stacked: Any, i: int) -> Any:
    return jax.tree.map(lambda values: values[i], stacked)


def _named_carry(step: Step) -> Step:
    """Returns the step that reads its carry by a name, for the policy to know it by."""

    def named(block: Any, carry: Any, rate: Any, rngs: nnx.Rngs | None) -> tuple[Any, Any]:
        carry = jax.tree.map(lambda x: checkpoint_name(x, _CARRY), carry)
        return step(block, carry, rate, rngs)

    return named


_offload_carry = jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[_CARRY],
    offload_src="device",
    offload_dst="pinned_host",
)


def _keep_products(primitive: Any, *_: Any, **__: Any) -> bool:
    """Says what the backward pass keeps: what has a name, and the outputs of cuDNN's attention.

    Products of linear layers, attention and dropout masks have one. What lies between them is
    cheaper to compute again than to write and read: a training step of ViT-S keeps 0.4 of the
    bytes.
    """
    return primitive.name == "name" or primitive.name.startswith("dot_product_attention")


def stack_blocks(tree: Any) -> Any:
    """Returns the tree with every `{"blocks": {0: ..., 1: ...}}` replaced by its stacked form.

    Args:
      tree: Nested dicts of arrays, also inside other containers such as an optimizer state.

    Raises:
      ValueError: if the blocks of one stack differ in names (e.g. only some are frozen) or shapes.
    """
    return _map_blocks(tree, _stack)


def unstack_blocks(tree: Any) -> Any:
    """Returns the tree with every stacked `"blocks"` replaced by one entry per block: 0, 1, ...

    Entries that are already there block by block stay as they are, and so do stacks without any
    array (moments of a frozen stack), whose depth nothing tells. May be used under `jax.jit`.

    Args:
      tree: Nested dicts of arrays, also inside other containers such as an optimizer state.

    Raises:
      ValueError: if the arrays of one stack disagree about the depth.
    """
    return _map_blocks(tree, _unstack)


def _map_blocks(tree: Any, change: Callable[[dict], dict]) -> Any:
    """Applies `change` to each dict under a key "blocks"; other containers are looked through."""

    def visit(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {
            name: change(child)
            if name == "blocks" and isinstance(child, dict)
            else _map_blocks(child, change)
            for name, child in node.items()
        }

    return jax.tree.map(visit, tree, is_leaf=lambda node: isinstance(node, dict))


def _is_list(blocks: dict) -> bool:
    return all(isinstance(name, int) for name in blocks)


def _stack(blocks: dict) -> dict:
    if not blocks or not _is_list(blocks):
        return blocks
    try:
        return jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *(blocks[i] for i in range(len(blocks)))
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"The {len(blocks)} blocks of a stack must be numbered from 0 and equal in names and "
            f"shapes, or the model must be built with scan=False: {error}"
        ) from error


def _unstack(blocks: dict) -> dict:
    leaves = jax.tree.leaves(blocks)
    if not leaves or _is_list(blocks):
        return blocks
    depths = {leaf.shape[0] for leaf in leaves}
    if len(depths) != 1:
        raise ValueError(f"The arrays of one stack must have equal depth, got {sorted(depths)}.")
    return {i: jax.tree.map(lambda leaf, i=i: leaf[i], blocks) for i in range(depths.pop())}
