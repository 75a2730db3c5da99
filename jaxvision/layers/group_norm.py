import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class GroupNorm(nnx.Module):
    """Normalises each example over space and over groups of channels, as `torch.nn.GroupNorm` does.

    No statistics of the batch, so that small batches and fine-tuning do not disturb it.

    Args:
      width: Number of channels, the last axis; a multiple of `groups`.
      groups: Number of groups.
      eps: Number added to the variance.
      dtype: Compute dtype of the output; the arithmetic is done in `param_dtype`.
      param_dtype: Dtype of scale and bias, which start at 1 and 0.

    Raises:
      ValueError: if the channels do not divide into the groups; the message gives both.

    Source: Wu and He 2018, Group Normalization, eq. 1 to 3 and 7.
    """

    def __init__(self, width: int, *, groups: int, eps: float, dtype: str, param_dtype: str):
        if width % groups:
            raise ValueError(f"{width} channels do not divide into {groups} groups.")
        self.scale = nnx.Param(jnp.ones((width,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((width,), param_dtype))
        self.groups = groups
        self.eps = eps
        self.dtype = dtype
        self.param_dtype = param_dtype

    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Returns the normalised map."""
        batch, height, width, channels = inputs.shape
        wide = inputs.astype(self.param_dtype)
        grouped = wide.reshape(batch, height * width, self.groups, channels // self.groups)
        mean = jnp.mean(grouped, axis=(1, 3), keepdims=True)
        # Not E[x^2] - E[x]^2, which cancels where the mean is large.
        var = jnp.mean(jnp.square(grouped - mean), axis=(1, 3), keepdims=True)
        normalised = ((grouped - mean) * jax.lax.rsqrt(var + self.eps)).reshape(inputs.shape)
        scale, bias = (values[...].reshape(1, 1, 1, -1) for values in (self.scale, self.bias))
        return (normalised * scale + bias).astype(self.dtype)
