"""Normalisation with torch's semantics: exact variance, explicit epsilon, torch-named momentum."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.errors import InputError
from jaxvision.layers.linear_call import linear_call


def layer_norm(
    width: int, *, eps: float, dtype: str, param_dtype: str, rngs: nnx.Rngs
) -> nnx.LayerNorm:
    """Returns a LayerNorm over the last axis with the exact (two-pass) variance.

    Args:
      width: Size of the last axis.
      eps: Number added to the variance. No default: 1e-6 in ViT, 1e-5 in Swin and in torch itself.
      dtype: Compute dtype of the output; the statistics are at least float32.
      param_dtype: Dtype of scale and bias.
      rngs: Source of randomness, demanded by nnx; scale starts at 1 and bias at 0.

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
      width: Number of channels, the last axis.
      eps: Number added to the variance.
      momentum: Weight of the *new* value in the running statistics (nnx names the old one).
      init_scale: Starting value of the scale; 0 makes a residual branch start as the identity.
      dtype: Compute dtype of the output; the arithmetic is done in `param_dtype`.
      param_dtype: Dtype of scale, bias and running statistics.

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
        self.frozen = False  # True: as in evaluation, whatever `train` says

    def __call__(
        self, inputs: Float[Array, "batch *space width"], *, train: bool = False
    ) -> Float[Array, "batch *space width"]:
        """Returns the normalised inputs; moves the running statistics if `train`.

        Raises:
          InputError: if `train` and there is one value of each channel: less its mean it is 0,
            whatever the image.
        """
        if train and not self.frozen:
            count = inputs.size // inputs.shape[-1]
            if count < 2:
                raise InputError(
                    "Expected more than 1 value per channel when training, got a BatchNorm's input "
                    f"of shape {inputs.shape}: take more images at once (a larger batch, fewer "
                    "micro-batches), or larger ones."
                )
            outputs, mean, var = _normalise_batch(
                inputs, self.scale[...], self.bias[...], self.eps, self.dtype
            )
            self._move_statistics(mean, var, count=count)
            return outputs
        # Subtract first: folding the mean into the bias would cancel badly where |mean| >>
        # deviation.
        factor = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.eps)
        return _scale_and_shift(inputs, self.mean[...], factor, self.bias[...], self.dtype)

    def _move_statistics(self, mean: jax.Array, var: jax.Array, *, count: int) -> None:
        unbiased = var * (count / (count - 1))
        keep = 1.0 - self.momentum
        mean, unbiased = jax.lax.stop_gradient((mean, unbiased))
        self.mean[...] = keep * self.mean[...] + self.momentum * mean
        self.var[...] = keep * self.var[...] + self.momentum * unbiased


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _normalise_batch(
    inputs: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, dtype: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the inputs normalised by their own statistics, and mean and variance.

    The gradient is written out: differentiating the formula reads and writes the map twice as
    often. It goes through the first output only.
    """
    return _normalise(inputs, scale, bias, eps, dtype)[:3]


@_normalise_batch.defjvp
def _normalise_jvp(
    eps: float, dtype: str, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    inputs, scale, bias = primals
    # Not `_normalise_batch`, which cuts the gradient of the statistics: a second derivative has it.
    outputs, mean, var, inverse = _normalise(inputs, scale, bias, eps, dtype)
    saved = (inputs, scale, mean, inverse)
    (moved,) = linear_call(
        functools.partial(_normalise_tangent, dtype=dtype), _normalise_gradient, saved, tangents
    )
    return (outputs, mean, var), (moved, jnp.zeros_like(mean), jnp.zeros_like(var))


def _normalise(
    inputs: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, dtype: str
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns the normalised inputs, mean, variance and 1 / deviation."""
    wide = inputs.astype(scale.dtype)
    axes = tuple(range(inputs.ndim - 1))
    mean = jnp.mean(wide, axes)
    var = jnp.mean(jnp.square(wide - _channels(mean, inputs.ndim)), axes)
    inverse = jax.lax.rsqrt(var + eps)
    return _scale_and_shift(inputs, mean, scale * inverse, bias, dtype), mean, var, inverse


def _normalise_tangent(
    saved: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...], *, dtype: str
) -> tuple[jax.Array]:
    """Returns how the normalised inputs move with inputs, scale and bias."""
    inputs, scale, mean, inverse = saved
    moved, scale_moved, bias_moved = tangents
    axes, ndim = tuple(range(inputs.ndim - 1)), inputs.ndim
    centred = inputs.astype(scale.dtype) - _channels(mean, ndim)
    moved = moved.astype(scale.dtype)
    factor = scale * inverse
    slope = scale_moved * inverse - factor * inverse**2 * jnp.mean(moved * centred, axes)
    shift = bias_moved - factor * jnp.mean(moved, axes)
    outputs = (
        moved * _channels(factor, ndim) + centred * _channels(slope, ndim) + _channels(shift, ndim)
    )
    return (outputs.astype(dtype),)


def _normalise_gradient(
    saved: tuple[jax.Array, ...], grads: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """Returns the gradients, as Ioffe and Szegedy give them in section 3, gathered by factor."""
    inputs, scale, mean, inverse = saved
    grad = grads[0].astype(scale.dtype)
    axes, ndim = tuple(range(inputs.ndim - 1)), inputs.ndim
    count = inputs.size // inputs.shape[-1]
    centred = inputs.astype(scale.dtype) - _channels(mean, ndim)
    bias_grad = jnp.sum(grad, axes)
    scale_grad = jnp.sum(grad * centred, axes) * inverse
    factor = scale * inverse
    inputs_grad = (
        grad * _channels(factor, ndim)
        - _channels(factor * bias_grad / count, ndim)
        - centred * _channels(factor * inverse * scale_grad / count, ndim)
    )
    return inputs_grad.astype(inputs.dtype), scale_grad, bias_grad


def _scale_and_shift(
    inputs: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array, dtype: str
) -> jax.Array:
    """Returns (inputs - mean) * factor + bias, channel by channel, computed in their dtype."""
    ndim = inputs.ndim
    centred = inputs.astype(mean.dtype) - _channels(mean, ndim)
    return (centred * _channels(factor, ndim) + _channels(bias, ndim)).astype(dtype)


def _channels(values: jax.Array, ndim: int) -> jax.Array:
    """Returns per-channel values with the rank of the input."""
    return values.reshape((1,) * (ndim - 1) + values.shape)
