"""Convolution: XLA's own, and the forms of `layers/cpu` in a program that is lowered for a CPU."""

import functools
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero, zero_from_primal
from jaxtyping import Array, Float

from jaxvision.layers.cpu import dense_conv, depthwise
from jaxvision.layers.linear_call import linear_call

Shape = tuple[int, ...]
Sides = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    inputs: Float[Array, "batch height width channels"],
    kernel: Float[Array, "size size group_channels features"],
    *,
    stride: int = 1,
    sides: Sides = ((0, 0), (0, 0)),
) -> Float[Array, "batch new_height new_width features"]:
    """Convolves a map.

    XLA does it on every platform but a CPU, where it is slow: there a depthwise convolution and
    its gradients are multiply-adds of shifted maps, and the gradient of a dense kernel a sum of
    matrix products. The form is chosen when the program is lowered, so that a program exported on
    a CPU for a GPU has the GPU's. Derivatives work in forward and in reverse mode.

    Args:
      inputs: Map that is convolved.
      kernel: Filters in HWIO; channels / group_channels groups of channels do not mix.
      stride: Step of the kernel in pixels.
      sides: Pixels of zeros that are added, ((top, bottom), (left, right)).
    """
    return _convolve(inputs, kernel, stride, sides)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _convolve(inputs: jax.Array, kernel: jax.Array, stride: int, sides: Sides) -> jax.Array:
    return _forward(inputs, kernel, stride=stride, sides=sides)


@functools.partial(_convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(
    stride: int, sides: Sides, primals: tuple[jax.Array, jax.Array], tangents: tuple[Any, Any]
) -> tuple[jax.Array, Any]:
    inputs, kernel = primals
    inputs_shape, kernel_shape = inputs.shape, kernel.shape
    window = {"stride": stride, "sides": sides}
    outputs = _convolve(inputs, kernel, stride, sides)
    parts = []
    if not isinstance(tangents[0], SymbolicZero):
        parts += linear_call(
            lambda kernel, x: (_convolve(*x, *kernel, stride, sides),),
            lambda kernel, grad: (_input_gradient(*kernel, *grad, shape=inputs_shape, **window),),
            (kernel,),
            (tangents[0],),
        )
    if not isinstance(tangents[1], SymbolicZero):
        parts += linear_call(
            lambda inputs, k: (_convolve(*inputs, *k, stride, sides),),
            lambda inputs, grad: (_kernel_gradient(*inputs, *grad, shape=kernel_shape, **window),),
            (inputs,),
            (tangents[1],),
        )
    return outputs, sum(parts[1:], parts[0]) if parts else zero_from_primal(outputs, True)


def _xla(inputs: jax.Array, kernel: jax.Array, *, stride: int, sides: Sides) -> jax.Array:
    return jax.lax.conv_general_dilated(
        inputs,
        kernel,
        window_strides=(stride, stride),
        padding=sides,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=inputs.shape[-1] // kernel.shape[2],
    )


# Each of the three is a jit, so that a call outside of one compiles it once, as a whole.


@functools.partial(jax.jit, static_argnames=("stride", "sides"))
def _forward(inputs: jax.Array, kernel: jax.Array, *, stride: int, sides: Sides) -> jax.Array:
    xla = functools.partial(_xla, stride=stride, sides=sides)
    if not _is_depthwise(inputs.shape, kernel.shape):
        return xla(inputs, kernel)
    cpu = functools.partial(depthwise.convolve, stride=stride, sides=sides)
    return jax.lax.platform_dependent(inputs, kernel, cpu=cpu, default=xla)


@functools.partial(jax.jit, static_argnames=("shape", "stride", "sides"))
def _input_gradient(
    kernel: jax.Array, grad: jax.Array, *, shape: Shape, stride: int, sides: Sides
) -> jax.Array:
    """Returns the gradient of the inputs, which are of the given shape."""

    def xla(kernel: jax.Array, grad: jax.Array) -> jax.Array:
        linear = lambda inputs: _xla(inputs, kernel, stride=stride, sides=sides)  # noqa: E731
        return jax.linear_transpose(linear, jax.ShapeDtypeStruct(shape, grad.dtype))(grad)[0]

    if not _is_depthwise(shape, kernel.shape):
        return xla(kernel, grad)
    cpu = functools.partial(depthwise.input_gradient, shape=shape, stride=stride, sides=sides)
    return jax.lax.platform_dependent(kernel, grad, cpu=cpu, default=xla)


@functools.partial(jax.jit, static_argnames=("shape", "stride", "sides"))
def _kernel_gradient(
    inputs: jax.Array, grad: jax.Array, *, shape: Shape, stride: int, sides: Sides
) -> jax.Array:
    """Returns the gradient of the kernel, which is of the given shape."""

    def xla(inputs: jax.Array, grad: jax.Array) -> jax.Array:
        linear = lambda kernel: _xla(inputs, kernel, stride=stride, sides=sides)  # noqa: E731
        return jax.linear_transpose(linear, jax.ShapeDtypeStruct(shape, grad.dtype))(grad)[0]

    if _is_depthwise(inputs.shape, shape):
        cpu = depthwise.kernel_gradient
    elif shape[2] == inputs.shape[-1] and dense_conv.pays(grad.shape):
        cpu = dense_conv.kernel_gradient
    else:
        return xla(inputs, grad)
    cpu = functools.partial(cpu, size=shape[0], stride=stride, sides=sides)
    return jax.lax.platform_dependent(inputs, grad, cpu=cpu, default=xla)


def _is_depthwise(inputs: Shape, kernel: Shape) -> bool:
    return kernel[2] == 1 and kernel[3] == inputs[-1]
