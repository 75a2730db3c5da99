"""Random parameters without a compiled program for each shape.

Built operation by operation, a ResNet-50 compiles 58 programs, which takes all of its 10 seconds.
Here the building is traced, the keys are derived in numpy, and all values come in pieces of one
size out of a single small program for each distribution. The values are the same bit by bit,
because JAX draws element i of an array from (key, i) alone.
"""

import collections
import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun
from jax.extend.core import Literal as Constant

from jaxvision.layers.counting_rngs import counting_rngs, drawn_from

Distribution = Literal["normal", "truncated_normal", "uniform"]

# Elements that one call of a compiled program draws: its arrays stay in the cache of a core.
_PIECE = 2**16
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_SQRT2 = np.float32(np.sqrt(2))


def build_model(build: Callable[..., nnx.Module], config: Any, *, rngs: nnx.Rngs) -> nnx.Module:
    """Returns `build(config, rngs=rngs)`, made in a tenth of the time.

    Args:
      build: Class of the model, or a function (config, rngs=...) -> model.
      config: Configuration of the model.
      rngs: Source of the initial values; its counts move on as those of any other draw.
    """
    if not _has_plain_keys(rngs):
        return build(config, rngs=rngs)
    keys = {name: stream.key[...] for name, stream in rngs.items()}
    drawn = {name: int(stream.count[...]) for name, stream in rngs.items()}
    graphdef: Any = None

    def values(keys: dict[str, jax.Array]) -> Any:
        nonlocal graphdef
        counting = counting_rngs(keys, drawn)
        graphdef, state = nnx.split(build(config, rngs=counting))
        drawn.update({name: drawn_from(counting, name) for name in keys})
        return state

    program, state = jax.make_jaxpr(values, return_shape=True)(keys)
    variables = jax.tree.leaves(state, is_leaf=_is_variable)
    if any(isinstance(variable, nnx.RngState) for variable in variables):
        return build(config, rngs=rngs)  # it keeps the streams themselves
    for name, stream in rngs.items():
        stream.count.set_value(jnp.asarray(np.uint32(drawn[name])))
    leaves = _evaluate(program, [_key_data(key) for key in jax.tree.leaves(keys)])
    state = jax.tree.unflatten(jax.tree.structure(state), jax.device_put(leaves))
    return nnx.merge(graphdef, state)


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _has_plain_keys(rngs: Any) -> bool:
    """Returns whether all keys are single keys of the default kind whose values are known."""
    config: Any = jax.config
    if type(rngs) is not nnx.Rngs or not config.jax_threefry_partitionable:
        return False
    states = [state for _, stream in rngs.items() for state in (stream.key[...], stream.count[...])]
    return not any(isinstance(x, Tracer) or x.shape for x in states) and all(
        str(jax.random.key_impl(key)) == "threefry2x32" for key in states[::2]
    )


def _evaluate(program: ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
    """Returns what a program returns. An array of keys is kept as its data, uint32 [..., 2]."""
    jaxpr = program.jaxpr
    constants = [_key_data(x) if _is_key(x) else x for x in program.consts]
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Constant) else known[atom]

    atoms = [*jaxpr.outvars, *(atom for eqn in jaxpr.eqns for atom in eqn.invars)]
    reads = collections.Counter(atom for atom in atoms if not isinstance(atom, Constant))
    drawn: set[Any] = set()  # values that one equation reads: it may write over them
    for eqn in jaxpr.eqns:
        name, inputs = eqn.primitive.name, [value(atom) for atom in eqn.invars]
        spare = [atom for atom in eqn.invars if not isinstance(atom, Constant) and atom in drawn]
        if name == "mul" and spare and known[spare[0]].shape == _out(eqn).shape:
            outputs = [np.multiply(*inputs, out=known[spare[0]])]
        else:
            outputs = _RULES[name](eqn, *inputs) if name in _RULES else None
        if name == "jit" and outputs and reads[eqn.outvars[0]] == 1:
            drawn.add(eqn.outvars[0])
        known.update(zip(eqn.outvars, outputs or _run(jaxpr, eqn, inputs), strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _run(jaxpr: Jaxpr, eqn: JaxprEqn, inputs: list[Any]) -> list[Any]:
    """Returns the outputs of any equation of a program, in a program of its own."""
    known = {
        atom: jax.random.wrap_key_data(x) if _is_key(atom.aval) else x
        for atom, x in zip(eqn.invars, inputs, strict=True)
        if not isinstance(atom, Constant)
    }
    alone = jaxpr.replace(constvars=[], invars=list(known), outvars=eqn.outvars, eqns=[eqn])
    outputs = jaxpr_as_fun(ClosedJaxpr(alone, ()))(*known.values())
    return [_key_data(x) if _is_key(x) else x for x in outputs]


def _out(eqn: JaxprEqn) -> Any:
    """Returns shape and dtype of what an equation returns."""
    return eqn.outvars[0].aval


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_data(key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(key))


def _fold_in(eqn: JaxprEqn, keys: np.ndarray, data: Any) -> list[np.ndarray]:
    return [_derived_keys(keys, np.asarray(data, np.uint32))]


def _split(eqn: JaxprEqn, keys: np.ndarray) -> list[np.ndarray]:
    shape = eqn.params["shape"]
    counts = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    return [_derived_keys(keys.reshape(*keys.shape[:-1], *(1,) * len(shape), 2), counts)]


def _derived_keys(keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        hashed = _threefry(keys[..., 0], keys[..., 1], np.uint32(0), counts)
    return np.stack(hashed, axis=-1)


def _slice(eqn: JaxprEqn, x: Any) -> list[Any]:
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    return [x[tuple(map(slice, starts, limits, strides))]]


def _squeeze(eqn: JaxprEqn, x: Any) -> list[Any]:
    return [np.squeeze(x, eqn.params["dimensions"])]


def _broadcast(eqn: JaxprEqn, x: Any, *_: Any) -> list[np.ndarray] | None:
    out, axes = _out(eqn), eqn.params["broadcast_dimensions"]
    if _is_key(out):
        return None
    x = np.asarray(x, out.dtype)
    sizes = dict(zip(axes, x.shape, strict=True))
    aligned = x.reshape([sizes.get(axis, 1) for axis in range(len(out.shape))])
    return [np.broadcast_to(aligned, out.shape)]


def _elementwise(function: np.ufunc) -> Callable[..., list[np.ndarray] | None]:
    """Returns the rule of a function that IEEE 754 defines to the last bit."""

    def rule(eqn: JaxprEqn, *inputs: Any) -> list[np.ndarray] | None:
        dtype = _out(eqn).dtype
        if dtype not in (np.float32, np.uint32):
            return None
        with np.errstate(all="ignore"):
            return [np.asarray(function(*(np.asarray(x, dtype) for x in inputs)))]

    return rule


def _draw(eqn: JaxprEqn, keys: Any, *bounds: Any) -> list[np.ndarray] | None:
    """Returns random values, or None if the function is none of those that are known here."""
    distribution = _DISTRIBUTIONS.get(eqn.params["name"])
    out = _out(eqn)
    batch = np.shape(keys)[:-1]
    if distribution is None or out.dtype != np.float32 or np.ndim(bounds) > 1:
        return None
    if out.shape[: len(batch)] != batch or not out.size < 2**32:
        return None
    lower, upper = np.asarray(bounds or (-1, 1), np.float32)
    draw = _drawing(distribution)
    drawn = _empty(out.shape)

    def fill(key: np.ndarray, piece: np.ndarray, start: int) -> None:
        piece[...] = np.asarray(draw(key, np.uint32(start), lower, upper))[: piece.size]

    draw(keys.reshape(-1, 2)[0], np.uint32(0), lower, upper)  # compiled once, not by each thread
    rows = zip(keys.reshape(-1, 2), drawn.reshape(keys.size // 2, -1), strict=True)
    pieces = [
        (key, row[start : start + _PIECE], start)
        for key, row in rows
        for start in range(0, row.size, _PIECE)
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, *zip(*pieces, strict=True)))
    return [drawn]


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a float32 array that begins at a multiple of 64 bytes: a CPU needs no copy of it."""
    size = math.prod(shape) * 4
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(np.float32).reshape(shape)


@functools.cache
def _drawing(distribution: Distribution) -> Callable[..., jax.Array]:
    """Returns the program that draws elements start to start + _PIECE of a flat array."""

    def draw(key: jax.Array, start: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
        counts = start + jnp.arange(_PIECE, dtype=jnp.uint32)
        high, low = _threefry(key[0], key[1], jnp.uint32(0), counts)
        ones = np.float32(1).view(np.uint32)
        bits = ((high ^ low) >> np.uint32(9)) | ones  # a float in 1..2
        unit = jax.lax.bitcast_convert_type(bits, jnp.float32) - np.float32(1)

        def uniform(least: Any, most: Any) -> jax.Array:
            return jnp.maximum(least, unit * (most - least) + least)

        if distribution == "uniform":
            return uniform(lower, upper)
        if distribution == "normal":
            least = np.nextafter(np.float32(-1), np.float32(0))
            return _SQRT2 * jax.lax.erf_inv(uniform(least, np.float32(1)))
        cut = uniform(jax.lax.erf(lower / _SQRT2), jax.lax.erf(upper / _SQRT2))
        least = jax.lax.nextafter(lower, np.float32(np.inf))
        most = jax.lax.nextafter(upper, np.float32(-np.inf))
        return jnp.clip(_SQRT2 * jax.lax.erf_inv(cut), least, most)

    return jax.jit(draw)


def _threefry(key0: Any, key1: Any, x0: Any, x1: Any) -> tuple[Any, Any]:
    """Returns two hashed words, of uint32 arrays of numpy or JAX.

    Source: Salmon et al. 2011, Parallel Random Numbers: As Easy as 1, 2, 3; Threefry-2x32, 20
      rounds. All of them in one expression are one loop over the elements, where JAX's own loop
      over the rounds reads and writes them five times.
    """
    keys = (key0, key1, key0 ^ key1 ^ _PARITY)
    x0, x1 = x0 + key0, x1 + key1
    for i in range(5):
        for bits in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << np.uint32(bits)) | (x1 >> np.uint32(32 - bits)))
        x0, x1 = x0 + keys[(i + 1) % 3], x1 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x0, x1


_DISTRIBUTIONS: dict[str, Distribution] = {
    "_normal": "normal",
    "_truncated_normal": "truncated_normal",
    "_uniform": "uniform",
}
# What building a model consists of; everything else runs in a program of its own.
_RULES: dict[str, Callable[..., list[Any] | None]] = {
    "random_fold_in": _fold_in,
    "random_split": _split,
    "slice": _slice,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "add": _elementwise(np.add),
    "mul": _elementwise(np.multiply),
    "sqrt": _elementwise(np.sqrt),
    "jit": _draw,
}
