"""The block of MobileNetV2, MobileNetV3 and EfficientNet: wide inside, narrow between blocks."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.activation import Activation, relu, sigmoid
from jaxvision.layers.conv import ConvNormAct, kaiming_depthwise
from jaxvision.layers.drop_path import drop_path
from jaxvision.layers.squeeze_excite import SqueezeExcite


class InvertedResidual(nnx.Module):
    """Expands the channels (1x1), filters each (depthwise), and projects without activation (1x1).

    The shortcut joins the narrow ends, where both have the same shape. An activation on a narrow
    map would destroy what it holds, so the projection has none.

    Args:
      in_channels: Number of channels of the input.
      expanded_channels: Number of channels inside; equal to `in_channels`: there is no expansion.
      out_channels: Number of channels of the output.
      kernel_size: Side of the depthwise kernel in pixels.
      stride: Stride of the depthwise convolution, 1 or 2.
      squeezed_channels: Number of channels inside the squeeze-and-excitation behind the depthwise
        convolution; 0: none.
      activation: Activation after expansion and depthwise convolution.
      squeeze_activation: Activation inside the squeeze-and-excitation.
      gate: Gate activation of the squeeze-and-excitation.
      drop_path_rate: Probability of dropping the branch; without a shortcut there is none.
      padding: Kind of padding: "symmetric" or "same", see `Conv`.
      norm_eps: Epsilon of every batch norm.
      norm_momentum: Momentum of every batch norm, in torch's sense.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Source: Sandler et al. 2018, MobileNetV2, figure 3b; Howard et al. 2019, MobileNetV3, figure 4,
      for the squeeze-and-excitation.
    """

    def __init__(
        self,
        in_channels: int,
        expanded_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int,
        squeezed_channels: int = 0,
        activation: Activation,
        squeeze_activation: Activation = relu,
        gate: Activation = sigmoid,
        drop_path_rate: float = 0.0,
        padding: str = "symmetric",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        dtypes: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        convs = {
            "padding": padding,
            "norm_eps": norm_eps,
            "norm_momentum": norm_momentum,
            **dtypes,
        }
        self.expand = (
            None
            if expanded_channels == in_channels
            else ConvNormAct(
                in_channels, expanded_channels, 1, activation=activation, rngs=rngs, **convs
            )
        )
        self.depthwise = ConvNormAct(
            expanded_channels,
            expanded_channels,
            kernel_size,
            stride=stride,
            groups=expanded_channels,
            kernel_init=kaiming_depthwise,
            activation=activation,
            rngs=rngs,
            **convs,
        )
        self.squeeze_excite = (
            None
            if squeezed_channels == 0
            else SqueezeExcite(
                expanded_channels,
                squeezed_channels,
                activation=squeeze_activation,
                gate=gate,
                rngs=rngs,
                **dtypes,
            )
        )
        self.project = ConvNormAct(
            expanded_channels, out_channels, 1, activation=None, rngs=rngs, **convs
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.drop_path_rate = drop_path_rate

    def __call__(
        self,
        inputs: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        """Returns the new map; moves the running statistics if `train`."""
        branch = inputs if self.expand is None else self.expand(inputs, train=train)
        branch = self.depthwise(branch, train=train)
        if self.squeeze_excite is not None:
            branch = self.squeeze_excite(branch)
        branch = self.project(branch, train=train)
        if not self.has_shortcut:
            return branch
        return inputs + drop_path(branch, self.drop_path_rate, train=train, rngs=rngs)
