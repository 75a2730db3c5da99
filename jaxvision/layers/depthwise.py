"""Depthwise convolution: as XLA does it, or as shifted multiply-adds where XLA is slow."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Sides = tuple[tuple[int, int], tuple[int, int]]  # zeros: ((top, bottom), (left, right))


def depthwise_conv(
    inputs: Float[Array, "batch height width channels"],
    kernel: Float[Array, "size size 1 channels"],
    *,
    stride: int = 1,
    padding: int | Sides = 0,
) -> Float[Array, "batch new_height new_width channels"]:
    """Convolves each channel with its own filter.

    XLA's convolution takes 10 to 100 times as long as this on a CPU. There, and only there, the
    filter is applied as one multiply-add per tap. The backend is looked up when the function is
    traced.

    Args:
      inputs: a map.
      kernel: one filter per channel.
      stride: step in pixels.
      padding: pixels of zeros added on each side, or ((top, bottom), (left, right)).

    Note: the CPU form has a hand-written gradient, hence no forward-mode derivative (`jax.jvp`).
    """
    sides = ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding
    if jax.default_backend() == "cpu":
        return _one_call(inputs, kernel, stride, sides)
    return jax.lax.conv_general_dilated(
        inputs,
        kernel,
        window_strides=(stride, stride),
        padding=sides,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=inputs.shape[-1],
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(inputs: jax.Array, kernel: jax.Array, stride: int, sides: Sides) -> jax.Array:
    size = kernel.shape[0]
    padded = _pad(inputs, sides)
    height, width = ((n - size) // stride + 1 for n in padded.shape[1:3])
    output = jnp.zeros((inputs.shape[0], height, width, inputs.shape[3]), inputs.dtype)
    for i in range(size):
        for j in range(size):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            columns = slice(j, j + stride * (width - 1) + 1, stride)
            output += padded[:, rows, columns] * _per_channel(kernel[i, j, 0])
    return output


def _forward(inputs: jax.Array, kernel: jax.Array, stride: int, sides: Sides):
    return _shifted(inputs, kernel, stride, sides), (inputs, kernel)


def _backward(stride: int, sides: Sides, saved, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = saved
    return (
        _input_gradient(kernel, grad, inputs.shape, stride, sides),
        _kernel_gradient(inputs, grad, kernel.shape[0], stride, sides).astype(kernel.dtype),
    )


_shifted.defvjp(_forward, _backward)


def _named(inputs: jax.Array, kernel: jax.Array, stride: int, sides: Sides) -> jax.Array:
    return _shifted(inputs, kernel, stride, sides)


# In a jaxpr the taps are one call of this name, so that a count of multiply-adds sees the
# convolution; XLA inlines the call.
_named.__name__ = "depthwise_conv"
_one_call = jax.jit(_named, static_argnums=(2, 3))


def _input_gradient(
    kernel: jax.Array, grad: jax.Array, shape: tuple[int, ...], stride: int, sides: Sides
) -> jax.Array:
    """Spreads each output pixel back over its window: the same multiply-adds with flipped taps."""
    size = kernel.shape[0]
    batch, height, width, channels = shape
    # Pixels of the padded input that are `stride` apart were read by the same taps: one phase.
    (top, bottom), (left, right) = sides
    rows = -(-(height + top + bottom) // stride)
    columns = -(-(width + left + right) // stride)
    reach = (size - 1) // stride
    around = ((reach, rows - grad.shape[1]), (reach, columns - grad.shape[2]))
    wide = jnp.pad(grad, ((0, 0), *around, (0, 0)))
    phases = []
    for a in range(stride):
        for b in range(stride):
            total = jnp.zeros((batch, rows, columns, channels), grad.dtype)
            for i in range(a, size, stride):
                for j in range(b, size, stride):
                    i0, j0 = reach - i // stride, reach - j // stride
                    tap = _per_channel(kernel[i, j, 0])
                    total += wide[:, i0 : i0 + rows, j0 : j0 + columns] * tap
            phases.append(total)
    if stride == 1:
        full = phases[0]
    else:
        full = jnp.stack(phases, axis=0).reshape(stride, stride, batch, rows, columns, channels)
        full = full.transpose(2, 3, 0, 4, 1, 5)  # batch rows stride columns stride channels
        full = full.reshape(batch, rows * stride, columns * stride, channels)
    return full[:, top : top + height, left : left + width]


def _kernel_gradient(
    inputs: jax.Array, grad: jax.Array, size: int, stride: int, sides: Sides
) -> jax.Array:
    """Correlates input and gradient, row by row: one accumulator per tap stays in the cache.

    Plain sums over batch, rows and columns take 20 times as long.
    """
    batch, height, width, channels = grad.shape
    padded = _pad(inputs, sides)
    wide = jnp.promote_types(grad.dtype, jnp.float32)

    def row_of(image: jax.Array, row: jax.Array) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(image, row, axis=1, keepdims=False).astype(wide)

    def add_row(row: jax.Array, totals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        grad_row = row_of(grad, row)
        new = []
        for i in range(size):
            line = row_of(padded, row * stride + i)
            for j in range(size):
                taps = line[:, j : j + stride * (width - 1) + 1 : stride]
                new.append(totals[i * size + j] + taps * grad_row)
        return tuple(new)

    zeros = tuple(jnp.zeros((batch, width, channels), wide) for _ in range(size * size))
    totals = jax.lax.fori_loop(0, height, add_row, zeros)
    sums = jnp.stack([jnp.sum(total, axis=(0, 1)) for total in totals])
    return sums.reshape(size, size, 1, channels)


def _pad(inputs: jax.Array, sides: Sides) -> jax.Array:
    return jnp.pad(inputs, ((0, 0), *sides, (0, 0)))


def _per_channel(tap: jax.Array) -> jax.Array:
    return tap.reshape(1, 1, 1, -1)
