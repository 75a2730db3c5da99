"""Normalisation with torch's semantics: exact variance, explicit epsilon, torch-named momentum."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def layer_norm(
    width: int, *, eps: float, dtype: str, param_dtype: str, rngs: nnx.Rngs
) -> nnx.LayerNorm:
    """Returns a LayerNorm over the last axis with the exact (two-pass) variance.

    Args:
      width: size of the last axis.
      eps: added to the variance. No default: 1e-6 in ViT, 1e-5 in Swin and in torch itself.
      dtype: compute dtype of the output; the statistics are at least float32.
      param_dtype: dtype of scale and bias.
      rngs: demanded by nnx; scale starts at 1 and bias at 0.

    Note: nnx defaults to E[x^2] - E[x]^2, which is off by 0.3 where the mean is 1000.
    """
    return nnx.LayerNorm(
        width,
        epsilon=eps,
        use_fast_variance=False,
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(param_dtype),
        rngs=rngs,
    )


class BatchNorm(nnx.Module):
    """Normalises each channel over batch and space, as `torch.nn.BatchNorm2d` does.

    Training uses the statistics of the batch (of the whole batch when it is sharded over devices)
    and moves the running ones; evaluation uses the running ones.

    Args:
      width: channels, the last axis.
      eps: added to the variance.
      momentum: weight of the *new* value in the running statistics (nnx names the old one).
      init_scale: starting value of the scale; 0 makes a residual branch start as the identity.
      dtype: compute dtype of the output; the arithmetic is done in `param_dtype`.
      param_dtype: dtype of scale, bias and running statistics.

    Note: the running variance takes the unbiased estimate n / (n - 1), the normalisation itself the
      biased one. nnx.BatchNorm stores the biased one, which differs after training.

    Source: Ioffe and Szegedy 2015, Batch Normalization, algorithms 1 and 2.
    """

    def __init__(
        self,
        width: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        init_scale: float = 1.0,
        dtype: str,
        param_dtype: str,
    ):
        self.scale = nnx.Param(jnp.full((width,), init_scale, param_dtype))
        self.bias = nnx.Param(jnp.zeros((width,), param_dtype))
        self.mean = nnx.BatchStat(jnp.zeros((width,), param_dtype))
        self.var = nnx.BatchStat(jnp.ones((width,), param_dtype))
        self.eps = eps
        self.momentum = momentum
        self.dtype = dtype
        self.param_dtype = param_dtype

    def __call__(
        self, inputs: Float[Array, "batch *space width"], *, train: bool = False
    ) -> Float[Array, "batch *space width"]:
        """Returns the normalised inputs; moves the running statistics if `train`."""
        wide = inputs.astype(self.param_dtype)
        axes = tuple(range(inputs.ndim - 1))
        if train:
            mean = jnp.mean(wide, axes)
            var = jnp.mean(jnp.square(wide - _channels(mean, inputs.ndim)), axes)
            self._move_statistics(mean, var, count=inputs.size // inputs.shape[-1])
        else:
            mean, var = self.mean[...], self.var[...]
        # Subtract first: folding the mean into the bias would cancel badly where |mean| >>
        # deviation.
        factor = self.scale[...] * jax.lax.rsqrt(var + self.eps)
        normalised = (wide - _channels(mean, inputs.ndim)) * _channels(factor, inputs.ndim)
        return (normalised + _channels(self.bias[...], inputs.ndim)).astype(self.dtype)

    def _move_statistics(self, mean: jax.Array, var: jax.Array, *, count: int) -> None:
        unbiased = var * (count / max(count - 1, 1))
        keep = 1.0 - self.momentum
        mean, unbiased = jax.lax.stop_gradient((mean, unbiased))
        self.mean[...] = keep * self.mean[...] + self.momentum * mean
        self.var[...] = keep * self.var[...] + self.momentum * unbiased


def _channels(values: jax.Array, ndim: int) -> jax.Array:
    """Returns per-channel values with the rank of the input."""
    return values.reshape((1,) * (ndim - 1) + values.shape)
