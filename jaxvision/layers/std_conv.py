"""Convolution with a standardised kernel, padded as TensorFlow pads."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.conv import kaiming_fan_out
from jaxvision.layers.linear import flat_product


def standardise(
    kernel: Float[Array, "height width in_channels out_channels"], eps: float
) -> Float[Array, "height width in_channels out_channels"]:
    """Returns the kernel with mean 0 and variance 1 over the inputs of each output.

    Args:
      kernel: Kernel in HWIO.
      eps: Number added to the variance.

    Source: Qiao et al. 2019, Micro-Batch Training with Batch-Channel Normalization and Weight
      Standardization, eq. 7 and 8.
    """
    centred = kernel - jnp.mean(kernel, axis=(0, 1, 2), keepdims=True)
    var = jnp.mean(jnp.square(centred), axis=(0, 1, 2), keepdims=True)
    return centred * jax.lax.rsqrt(var + eps)


class StdConv(nnx.Module):
    """A 2-D convolution without bias whose kernel is standardised at each call.

    A norm has to follow: the size of the kernel is lost. The padding is TensorFlow's SAME, which at
    stride 2 puts more zeros behind the map than before it; the published weights need it.

    Args:
      in_channels: Number of channels of the input.
      out_channels: Number of channels of the output.
      kernel_size: Side of the kernel in pixels.
      stride: Step of the kernel in pixels.
      eps: Number added to the variance of the kernel.
      dtype: Compute dtype; the kernel is standardised in `param_dtype`.
      param_dtype: Dtype of the kernel.
      rngs: Source of the initial values.

    Note: eps as in timm; the BiT code adds 1e-5 to the deviation instead.

    Source: Kolesnikov et al. 2020, Big Transfer, section 3.1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        eps: float = 1e-8,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.kernel = nnx.Param(kaiming_fan_out(rngs.params(), shape, jnp.dtype(param_dtype)))
        self.kernel_size = kernel_size
        self.stride = stride
        self.eps = eps
        self.dtype = dtype

    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        """Returns the convolved map, ceil(size / stride) pixels high and wide."""
        inputs = inputs.astype(self.dtype)
        kernel = standardise(self.kernel[...], self.eps).astype(self.dtype)
        if self.kernel_size == 1:  # as a matrix product, see `Conv`
            return flat_product(inputs[:, :: self.stride, :: self.stride, :], kernel[0, 0])
        return jax.lax.conv_general_dilated(
            inputs,
            kernel,
            window_strides=(self.stride, self.stride),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
