"""Convolution with torch's symmetric padding or SAME, and the block every CNN is made of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.errors import check_choice
from jaxvision.layers.activation import relu
from jaxvision.layers.adapter import Adapter, adapted
from jaxvision.layers.convolve import Sides, convolve
from jaxvision.layers.linear import flat_product
from jaxvision.layers.norm import BatchNorm

# Kaiming normal by fan-out, as torchvision and timm start their CNNs.
kaiming_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# The same for a depthwise kernel, of whose outputs each input pixel reaches one channel only.
kaiming_depthwise = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")

PADDINGS = ("symmetric", "same")


def make_divisible(channels: int | float, divisor: int = 8) -> int:
    """Returns the channel count rounded to a multiple of `divisor`, never below 90 % of `channels`.

    Args:
      channels: Wanted count, e.g. after a width multiplier.
      divisor: Number that the result is a multiple of.

    Source: the MobileNet reference code, `_make_divisible`.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def same_padding(pixels: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Returns the zeros before and behind one side that make it ceil(pixels / stride) long.

    Args:
      pixels: Length of the side in pixels.
      kernel_size: Side of the kernel in pixels.
      stride: Step of the kernel in pixels.

    Source: TensorFlow's padding="SAME"; the odd zero is behind.
    """
    zeros = max((-(-pixels // stride) - 1) * stride + kernel_size - pixels, 0)
    return zeros // 2, zeros - zeros // 2


class Conv(nnx.Module):
    """A 2-D convolution with zeros on all four sides, as `torch.nn.Conv2d` pads.

    SAME padding is not symmetric at stride 2 on even sizes, and shifts the image by half a pixel
    there. Weights that were trained in TensorFlow need it.

    Args:
      in_channels: Number of channels of the input.
      out_channels: Number of channels of the output.
      kernel_size: Side of the kernel in pixels.
      stride: Step of the kernel in pixels.
      groups: Number of channel groups that do not mix; equal to both channel counts: depthwise.
      padding: Kind of padding: "symmetric", (kernel_size - 1) / 2 zeros on each side, or "same", as
        TensorFlow pads.
      use_bias: Whether a bias is added; needless before a norm.
      kernel_init: Initialiser of the kernel, layout HWIO.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Raises:
      ValueError: if the channels are not multiples of `groups`, or there is no such padding.

    Attributes:
      adapter: Adapter of a 1x1 convolution without groups, see adapter.py; None: none.
    """

    adapter: Adapter | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: str = "symmetric",
        use_bias: bool = False,
        kernel_init: jax.nn.initializers.Initializer = kaiming_fan_out,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        check_choice("padding", padding, PADDINGS)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Channels {in_channels} and {out_channels} must be multiples of groups={groups}."
            )
        shape = (kernel_size, kernel_size, in_channels // groups, out_channels)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.dtype(param_dtype)))
        self.bias = nnx.Param(jnp.zeros((out_channels,), param_dtype)) if use_bias else None
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.groups = groups
        self.dtype = dtype

    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        """Returns the convolved map."""
        inputs = inputs.astype(self.dtype)
        if self.is_product:
            # XLA's convolution takes twice as long for the same numbers on a CPU.
            return adapted(
                self.adapter, inputs[:, :: self.stride, :: self.stride, :], self._multiplied
            )
        kernel = self.kernel[...].astype(self.dtype)
        return self._with_bias(
            convolve(inputs, kernel, stride=self.stride, sides=self._sides(inputs))
        )

    @property
    def is_product(self) -> bool:
        """Whether it is a product of matrices, place by place."""
        return self.kernel_size == 1 and self.groups == 1

    def _multiplied(self, inputs: jax.Array) -> jax.Array:
        return self._with_bias(flat_product(inputs, self.kernel[...].astype(self.dtype)[0, 0]))

    def _with_bias(self, outputs: jax.Array) -> jax.Array:
        if self.bias is None:
            return outputs
        return outputs + self.bias[...].astype(self.dtype).reshape(1, 1, 1, -1)

    def _sides(self, inputs: jax.Array) -> Sides:
        if self.padding == "same":
            height, width = inputs.shape[1:3]
            return (
                same_padding(height, self.kernel_size, self.stride),
                same_padding(width, self.kernel_size, self.stride),
            )
        zeros = (self.kernel_size - 1) // 2  # keeps the size at stride 1
        return (zeros, zeros), (zeros, zeros)


class ConvNormAct(nnx.Module):
    """Convolution without bias, batch norm, activation.

    Args:
      in_channels: Number of channels of the input.
      out_channels: Number of channels of the output.
      kernel_size: Side of the kernel in pixels.
      stride: Step of the kernel in pixels.
      groups: Number of channel groups that do not mix.
      padding: Kind of padding: "symmetric" or "same", see `Conv`.
      kernel_init: Initialiser of the kernel, layout HWIO.
      activation: Activation, a plain function, or None for none.
      norm_eps: Epsilon of the batch norm.
      norm_momentum: Momentum of the batch norm, in torch's sense.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: str = "symmetric",
        kernel_init: jax.nn.initializers.Initializer = kaiming_fan_out,
        activation: Callable[[jax.Array], jax.Array] | None = relu,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            groups=groups,
            padding=padding,
            kernel_init=kernel_init,
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
        return self.norm.activated(self.conv(inputs), self.activation, train=train)
