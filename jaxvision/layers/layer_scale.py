import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class LayerScale(nnx.Module):
    """Multiplies each channel of a residual branch by a learned factor that starts small.

    Args:
      width: Number of channels of the branch.
      init: Starting value of every factor, e.g. 1e-4 for deep models.
      dtype: Compute dtype.
      param_dtype: Dtype of the factors.

    Source: Touvron et al. 2021, Going deeper with Image Transformers, eq. 4.
    """

    def __init__(self, width: int, *, init: float, dtype: str, param_dtype: str):
        self.gamma = nnx.Param(jnp.full((width,), init, param_dtype))
        self.dtype = dtype

    def __call__(self, branch: Float[Array, "*rest width"]) -> Float[Array, "*rest width"]:
        """Returns the scaled branch."""
        gamma = jnp.asarray(self.gamma[...], self.dtype)
        return branch * jax.lax.broadcast_in_dim(gamma, branch.shape, (branch.ndim - 1,))
