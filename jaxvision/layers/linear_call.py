"""A linear function with a transpose of one's own, so that a hand-written gradient keeps `jvp`.

`jax.custom_vjp` forbids forward mode. A `jax.custom_jvp` whose tangents go through `linear_call`
does not: forward mode runs the function, reverse mode the transpose. That of
`jax.custom_derivatives` has no rule for `vmap` and none for a second derivative.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

Arrays = tuple[jax.Array, ...]
Linear = Callable[[Arrays, Arrays], Arrays]


def linear_call(
    function: Linear, transpose: Linear, residuals: Sequence[Any], inputs: Sequence[Any]
) -> Arrays:
    """Returns function(residuals, inputs), which reverse mode transposes with `transpose`.

    Args:
      function: A map from (residuals, inputs) to outputs, linear in the inputs; it may close over
        no array.
      transpose: The map from (residuals, gradients of the outputs) to gradients of the inputs.
      residuals: Values that both functions need. A derivative with respect to them is that of the
        code of `function`, or of `transpose`.
      inputs: Arrays that `function` is linear in.
    """
    count = len(residuals)
    jaxpr = jax.make_jaxpr(lambda *a: tuple(function(a[:count], a[count:])))(*residuals, *inputs)
    return tuple(
        _PRIMITIVE.bind(
            *residuals, *inputs, jaxpr=jaxpr, function=function, transpose=transpose, count=count
        )
    )


_PRIMITIVE = Primitive("linear_call")
_PRIMITIVE.multiple_results = True


@_PRIMITIVE.def_abstract_eval
def _out_avals(*_: Any, jaxpr: Any, **__: Any) -> list[Any]:
    return jaxpr.out_avals


@_PRIMITIVE.def_impl
def _run(*arguments: Any, jaxpr: Any, **_: Any) -> list[jax.Array]:
    return jaxpr_as_fun(jaxpr)(*arguments)


def _jvp(
    primals: Sequence,
    tangents: Sequence,
    *,
    jaxpr: Any,
    function: Linear,
    transpose: Linear,
    count: int,
) -> tuple[list[jax.Array], list[Any]]:
    params = {"jaxpr": jaxpr, "function": function, "transpose": transpose, "count": count}
    residuals, inputs = tuple(primals[:count]), tuple(primals[count:])
    moves = [not isinstance(tangent, ad.Zero) for tangent in tangents]
    filled = tuple(ad.instantiate_zeros(tangent) for tangent in tangents)
    parts = []
    if any(moves[count:]):
        parts.append(_PRIMITIVE.bind(*residuals, *filled[count:], **params))
    if any(moves[:count]):
        of_residuals = lambda *residuals: function(residuals, inputs)  # noqa: E731
        parts.append(jax.jvp(of_residuals, residuals, filled[:count])[1])
    sums = [sum(terms[1:], terms[0]) for terms in zip(*parts, strict=True)]
    return _PRIMITIVE.bind(*primals, **params), sums


def _transpose(
    grads: Sequence, *arguments: Any, jaxpr: Any, function: Linear, transpose: Linear, count: int
) -> list:
    filled = [
        jnp.zeros(aval.shape, aval.dtype) if isinstance(grad, ad.Zero) else grad
        for grad, aval in zip(grads, jaxpr.out_avals, strict=True)
    ]
    results = (None,) * count + linear_call(transpose, function, arguments[:count], filled)
    return [
        result if ad.is_undefined_primal(argument) else None
        for argument, result in zip(arguments, results, strict=True)
    ]


def _batch(
    arguments: Sequence,
    axes: Sequence,
    *,
    jaxpr: Any,
    function: Linear,
    transpose: Linear,
    count: int,
) -> tuple[Arrays, list[int]]:
    del jaxpr
    size = next(x.shape[axis] for x, axis in zip(arguments, axes, strict=True) if axis is not None)
    residuals = [
        x if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(arguments[:count], axes[:count], strict=True)
    ]
    inputs = [  # all batched, so that all gradients are
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(arguments[count:], axes[count:], strict=True)
    ]
    in_axes = (tuple(None if axis is None else 0 for axis in axes[:count]), 0)
    outputs = linear_call(
        jax.vmap(function, in_axes), jax.vmap(transpose, in_axes), residuals, inputs
    )
    return outputs, [0] * len(outputs)


ad.primitive_jvps[_PRIMITIVE] = _jvp
ad.primitive_transposes[_PRIMITIVE] = _transpose
batching.primitive_batchers[_PRIMITIVE] = _batch
mlir.register_lowering(_PRIMITIVE, mlir.lower_fun(_run, multiple_results=True))
