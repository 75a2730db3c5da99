"""Squeeze-and-excitation: the whole map decides how much of each channel goes on."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.activation import Activation
from jaxvision.layers.conv import Conv


class SqueezeExcite(nnx.Module):
    """Scales each channel by a gate that is computed from the means of all channels.

    Args:
      channels: Number of channels of the map.
      squeezed_channels: Number of channels between the two linear maps.
      activation: Activation after the first linear map.
      gate: Activation after the second linear map: sigmoid in EfficientNet, hard sigmoid in
        MobileNetV3.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values: Kaiming normal by fan-out, biases 0.

    Source: Hu et al. 2018, Squeeze-and-Excitation Networks, section 3.
    """

    def __init__(
        self,
        channels: int,
        squeezed_channels: int,
        *,
        activation: Activation,
        gate: Activation,
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        self.reduce = Conv(
            channels,
            squeezed_channels,
            1,
            use_bias=True,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.expand = Conv(
            squeezed_channels,
            channels,
            1,
            use_bias=True,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.activation = activation
        self.gate = gate

    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Returns the scaled map."""
        means = jnp.mean(inputs, axis=(1, 2), keepdims=True)
        return inputs * self.gate(self.expand(self.activation(self.reduce(means))))
