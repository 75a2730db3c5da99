"""Multiply-adds and activations of a model, counted in its jaxpr: no array is computed."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from flax import nnx

from jaxvision.models.registry import create_model
from jaxvision.profiling.module_calls import watch_calls


@dataclasses.dataclass(frozen=True)
class Work:
    """What one convolution or matrix product takes.

    Attributes:
      path: Path of the innermost module that it belongs to; "" for the model itself, and wherever
        the modules were not watched.
      macs: Multiply-adds; FLOPs are twice as many.
      activations: Elements of the output.
    """

    path: str
    macs: int
    activations: int


@dataclasses.dataclass(frozen=True)
class Trace:
    """What a forward pass of one batch takes.

    Attributes:
      work: Work of every convolution and matrix product, in the order of the computation.
      shapes: Shape of the output of every module that was called, by path, in the order of the
        returns.
    """

    work: list[Work]
    shapes: dict[str, tuple[int, ...]]


def count_work(function: Callable[..., Any], *arguments: Any) -> list[Work]:
    """Returns every convolution and matrix product of a function, those of attention included.

    Norms, activations and pooling do not count, as in torch's flop counter. A loop of unknown
    length counts once.

    Args:
      function: Function that JAX can trace.
      *arguments: Arguments of the function, trees of arrays or shapes.
    """
    return list(_walk(jax.make_jaxpr(function)(*arguments).jaxpr, "", 1))


def total(work: Iterable[Work]) -> tuple[int, int]:
    """Returns the sums (multiply-adds, activations)."""
    work = list(work)
    return sum(each.macs for each in work), sum(each.activations for each in work)


def abstract_model(name: str, **overrides: Any) -> nnx.Module:
    """Returns a model of `create_model` with shapes instead of arrays; see there for `Raises`."""

    def build() -> nnx.Module:
        rngs: Any = nnx.Rngs(0)
        rngs.params = _OneKey(jax.random.key(0), tag="params")
        return create_model(name, rngs=rngs, **overrides)

    return nnx.eval_shape(build)


class _OneKey(nnx.RngStream):
    """Gives the same key to all: shapes do not depend on it, and to count takes half the time."""

    def __call__(self) -> jax.Array:
        return self.key[...]


def count_parameters(module: nnx.Module) -> int:
    """Returns the number of parameters of a module, of arrays or of shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def image_batch(model: Any, height: int, width: int, batch: int = 1) -> jax.ShapeDtypeStruct:
    """Returns the shape of a batch of images for a model."""
    shape = (batch, height, width, model.config.in_channels)
    return jax.ShapeDtypeStruct(shape, "float32")


def trace_model(model: nnx.Module, images: Any) -> Trace:
    """Returns the work of a forward pass in evaluation by module, and the modules' output shapes.

    Args:
      model: Model of arrays or of shapes.
      images: Images [batch, height, width, channels], an array or a shape.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def around(path: str, call: Callable[[], Any]) -> Any:
        with jax.named_scope(f"module:{path}"):
            output = call()
        if hasattr(output, "shape"):
            shapes[path] = tuple(output.shape)
        return output

    with watch_calls(model, around) as watched:
        work = count_work(lambda model, images: model(images), watched, images)
    return Trace(work, shapes)


def _walk(jaxpr: Any, path: str, times: int) -> Iterator[Work]:
    """Yields the work of a jaxpr that runs `times` times inside the module at `path`."""
    for eqn in jaxpr.eqns:
        # Inside a loop or a checkpoint the scopes may begin anew: then it is the caller's module.
        scopes = str(eqn.source_info.name_stack)
        if "pooling" in scopes.split("/"):  # layers/pool.py, where it is a product
            continue
        names = re.findall(r"module:([^/]*)", scopes)
        here = names[-1] if names else path
        macs = _macs(eqn)
        if macs is not None:
            yield Work(here, times * macs, times * eqn.outvars[0].aval.size)
        elif eqn.params.get("branches_platforms"):  # one operation in the forms of the platforms
            yield from _walk(list(_inner(eqn))[-1], here, times)
        elif eqn.primitive.name == "cond":  # the branch that takes most
            branches = [list(_walk(inner, here, times)) for inner in _inner(eqn)]
            yield from max(branches, key=lambda branch: total(branch)[0])
        else:
            for inner in _inner(eqn):
                yield from _walk(inner, here, times * eqn.params.get("length", 1))


def _macs(eqn: Any) -> int | None:
    """Returns the multiply-adds of an operation, None if it is none that counts."""
    shapes: list[Any] = [getattr(var.aval, "shape", ()) for var in eqn.invars]
    size = math.prod(eqn.outvars[0].aval.shape) if eqn.outvars else 0
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return size * math.prod(shapes[0][axis] for axis in contracted)
    if eqn.primitive.name == "conv_general_dilated":
        out_channels = shapes[1][eqn.params["dimension_numbers"].rhs_spec[0]]
        return size * math.prod(shapes[1]) // out_channels
    if eqn.primitive.name.startswith("dot_product_attention_fwd"):  # cuDNN's, both products
        return 2 * size * shapes[1][1]
    return None


def _inner(eqn: Any) -> Iterator[Any]:
    """Yields the jaxprs that an operation calls."""
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr
