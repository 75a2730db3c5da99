"""Dense convolution: XLA's own, with another gradient of the kernel where XLA is slow."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.layers.depthwise import Sides

_FEWEST_PIXELS = 196  # of an output map; below, XLA's gradient is as fast
_BLOCK = 2**21  # numbers of a block's windows: 8 MB, about a CPU's cache


def dense_conv(
    inputs: Float[Array, "batch height width channels"],
    kernel: Float[Array, "size size channels features"],
    *,
    stride: int,
    sides: Sides,
) -> Float[Array, "batch new_height new_width features"]:
    """Convolves a map.

    On a CPU, and only there, the gradient of the kernel is a sum of matrix products over blocks of
    rows: XLA's takes up to three times as long. The backend is looked up when the function is
    traced.

    Args:
      inputs: a map.
      kernel: in HWIO.
      stride: step in pixels.
      sides: pixels of zeros added, ((top, bottom), (left, right)).

    Note: the CPU form has a hand-written gradient, hence no forward-mode derivative (`jax.jvp`).
    """
    convolve = _with_own_gradient if jax.default_backend() == "cpu" else _convolve
    return convolve(inputs, kernel, stride, sides)


def _convolve(inputs: jax.Array, kernel: jax.Array, stride: int, sides: Sides) -> jax.Array:
    return jax.lax.conv_general_dilated(
        inputs,
        kernel,
        window_strides=(stride, stride),
        padding=sides,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


_with_own_gradient = jax.custom_vjp(_convolve, nondiff_argnums=(2, 3))


def _forward(inputs: jax.Array, kernel: jax.Array, stride: int, sides: Sides):
    return _convolve(inputs, kernel, stride, sides), (inputs, kernel)


def _backward(stride: int, sides: Sides, saved, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = saved
    convolve = functools.partial(_convolve, stride=stride, sides=sides)
    inputs_grad, kernel_grad = jax.vjp(convolve, inputs, kernel)[1](grad)
    if grad.shape[1] * grad.shape[2] >= _FEWEST_PIXELS:
        kernel_grad = _kernel_gradient(inputs, grad, kernel, stride, sides)
    return inputs_grad, kernel_grad


_with_own_gradient.defvjp(_forward, _backward)


def _kernel_gradient(
    inputs: jax.Array, grad: jax.Array, kernel: jax.Array, stride: int, sides: Sides
) -> jax.Array:
    """Gathers the windows of some rows of all images, times the gradient there; sums the blocks."""
    height, width, features = grad.shape[1:]
    size, _, channels, _ = kernel.shape
    padded = jnp.pad(inputs, ((0, 0), *sides, (0, 0)))
    windows = grad.size // features * size * size * channels
    divisors = (n for n in range(1, height) if height % n == 0 and windows // n <= _BLOCK)
    blocks = next(divisors, height)
    rows, last = height // blocks, (width - 1) * stride
    wide = jnp.promote_types(grad.dtype, jnp.float32)

    def add_block(block: jax.Array, total: jax.Array) -> jax.Array:
        lines = (rows - 1) * stride + size
        part = jax.lax.dynamic_slice_in_dim(padded, block * rows * stride, lines, axis=1)
        taps = [
            part[:, i : i + (rows - 1) * stride + 1 : stride, j : j + last + 1 : stride]
            for i in range(size)
            for j in range(size)
        ]
        columns = jnp.concatenate(taps, axis=-1).reshape(-1, size * size * channels)
        grad_part = jax.lax.dynamic_slice_in_dim(grad, block * rows, rows, axis=1)
        grad_part = grad_part.reshape(-1, features)
        return total + jnp.matmul(columns.T, grad_part, preferred_element_type=wide)

    zeros = jnp.zeros((size * size * channels, features), wide)
    total = jax.lax.fori_loop(0, blocks, add_block, zeros)
    return total.reshape(kernel.shape).astype(kernel.dtype)
