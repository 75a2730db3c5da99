"""Depthwise convolution as shifted multiply-adds: on a CPU, XLA's takes 10 to 100 times as long."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Sides = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    inputs: Float[Array, "batch height width channels"],
    kernel: Float[Array, "size size 1 channels"],
    *,
    stride: int,
    sides: Sides,
) -> Float[Array, "batch new_height new_width channels"]:
    """Convolves each channel with its own filter, one multiply-add per tap.

    Args:
      inputs: Map that is convolved.
      kernel: Kernel, one filter per channel.
      stride: Step of the kernel in pixels.
      sides: Pixels of zeros that are added, ((top, bottom), (left, right)).
    """
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


def input_gradient(
    kernel: Float[Array, "size size 1 channels"],
    grad: Float[Array, "batch new_height new_width channels"],
    *,
    shape: tuple[int, ...],
    stride: int,
    sides: Sides,
) -> Float[Array, "batch height width channels"]:
    """Spreads each output pixel back over its window: the same multiply-adds with flipped taps.

    Args:
      kernel: Kernel, one filter per channel.
      grad: Gradient of the output.
      shape: Shape of the inputs.
      stride: Step of the kernel in pixels.
      sides: Pixels of zeros that were added, ((top, bottom), (left, right)).
    """
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


def kernel_gradient(
    inputs: Float[Array, "batch height width channels"],
    grad: Float[Array, "batch new_height new_width channels"],
    *,
    size: int,
    stride: int,
    sides: Sides,
) -> Float[Array, "size size 1 channels"]:
    """Correlates input and gradient, row by row: one accumulator per tap stays in the cache.

    Plain sums over batch, rows and columns take 20 times as long. Sums in at least float32.

    Args:
      inputs: Map that was convolved.
      grad: Gradient of the output.
      size: Side of the kernel in pixels.
      stride: Step of the kernel in pixels.
      sides: Pixels of zeros that were added, ((top, bottom), (left, right)).
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
    return sums.reshape(size, size, 1, channels).astype(grad.dtype)


def _pad(inputs: jax.Array, sides: Sides) -> jax.Array:
    return jnp.pad(inputs, ((0, 0), *sides, (0, 0)))


def _per_channel(tap: jax.Array) -> jax.Array:
    return tap.reshape(1, 1, 1, -1)
