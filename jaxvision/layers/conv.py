"""Convolution with torch's symmetric padding, and the block every CNN is made of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.depthwise import depthwise_conv
from jaxvision.layers.linear import flat_product
from jaxvision.layers.norm import BatchNorm

# Kaiming normal by fan-out, as torchvision and timm start their CNNs.
kaiming_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def make_divisible(channels: int | float, divisor: int = 8) -> int:
    """Returns the channel count rounded to a multiple of `divisor`, never below 90 % of `channels`.

    Args:
      channels: wanted count, e.g. after a width multiplier.
      divisor: the multiple.

    Source: the MobileNet reference code, `_make_divisible`.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class Conv(nnx.Module):
    """A 2-D convolution with zeros on all four sides, as `torch.nn.Conv2d` pads.

    SAME padding is not symmetric at stride 2 on even sizes, and shifts the image by half a pixel
    there.

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      window: side of the kernel in pixels.
      stride: step in pixels.
      groups: channel groups that do not mix; equal to both channel counts: depthwise.
      use_bias: whether a bias is added; needless before a norm.
      kernel_init: initialiser of the kernel, layout HWIO.
      dtype: compute dtype.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values.

    Raises:
      ValueError: if the channels are not multiples of `groups`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        window: int,
        *,
        stride: int = 1,
        groups: int = 1,
        use_bias: bool = False,
        kernel_init: jax.nn.initializers.Initializer = kaiming_fan_out,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Channels {in_channels} and {out_channels} must be multiples of groups={groups}."
            )
        shape = (window, window, in_channels // groups, out_channels)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.dtype(param_dtype)))
        self.bias = nnx.Param(jnp.zeros((out_channels,), param_dtype)) if use_bias else None
        self.window = window
        self.stride = stride
        self.padding = (window - 1) // 2  # keeps the size at stride 1
        self.groups = groups
        self.dtype = dtype

    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        """Returns the convolved map."""
        inputs = inputs.astype(self.dtype)
        kernel = self.kernel[...].astype(self.dtype)
        if self.window == 1 and self.groups == 1:
            # A matrix product: XLA's convolution takes twice as long for the same numbers on a CPU.
            inputs = inputs[:, :: self.stride, :: self.stride, :]
            outputs = flat_product(inputs, kernel[0, 0])
        elif self.groups == inputs.shape[-1] == kernel.shape[-1]:
            outputs = depthwise_conv(inputs, kernel, stride=self.stride, padding=self.padding)
        else:
            outputs = jax.lax.conv_general_dilated(
                inputs,
                kernel,
                window_strides=(self.stride, self.stride),
                padding=((self.padding, self.padding), (self.padding, self.padding)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )
        if self.bias is None:
            return outputs
        return outputs + self.bias[...].astype(self.dtype).reshape(1, 1, 1, -1)


class ConvNormAct(nnx.Module):
    """Convolution without bias, batch norm, activation.

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      window: side of the kernel in pixels.
      stride: step in pixels.
      groups: channel groups that do not mix.
      activation: a plain function, or None for none.
      norm_eps: of the batch norm.
      norm_momentum: of the batch norm, in torch's sense.
      dtype: compute dtype.
      param_dtype: dtype of the parameters.
      rngs: source of the initial values.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        window: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Callable[[jax.Array], jax.Array] | None = nnx.relu,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_channels,
            out_channels,
            window,
            stride=stride,
            groups=groups,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.norm = BatchNorm(
            out_channels, eps=norm_eps, momentum=norm_momentum, dtype=dtype, param_dtype=param_dtype
        )
        self.activation = activation

    def __call__(
        self, inputs: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        """Returns the new map; moves the running statistics if `train`."""
        outputs = self.norm(self.conv(inputs), train=train)
        return outputs if self.activation is None else self.activation(outputs)
