"""Normalisation with torch's semantics: exact variance, explicit epsilon, torch-named momentum."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jaxvision.errors import InputError
from jaxvision.layers.activation import Activation
from jaxvision.layers.linear_call import linear_call


class LayerNorm(nnx.LayerNorm):
    """nnx's LayerNorm over the last axis, with the gradient written out.

    Differentiating the formula makes a float32 map of the inputs' size on a GPU.

    Source: Ba, Kiros and Hinton 2016, Layer Normalization.
    """

    def __call__(self, x: Float[Array, "*shape width"]) -> Float[Array, "*shape width"]:
        """Returns the inputs, each row with mean 0 and variance 1, times scale, plus bias."""
        assert self.scale is not None and self.bias is not None  # as `layer_norm` makes them
        scale, bias = jnp.asarray(self.scale[...]), jnp.asarray(self.bias[...])  # may be NumPy's
        return _normalise_rows(x, scale, bias, self.epsilon, str(self.dtype or x.dtype))


def layer_norm(
    width: int, *, eps: float, dtype: str, param_dtype: str, rngs: nnx.Rngs
) -> LayerNorm:
    """Returns a LayerNorm over the last axis with the exact (two-pass) variance.

    Args:
      width: Size of the last axis.
      eps: Number added to the variance. No default: 1e-6 in ViT, 1e-5 in Swin and in torch itself.
      dtype: Compute dtype of the output; the statistics are at least float32.
      param_dtype: Dtype of scale and bias.
      rngs: Source of randomness, demanded by nnx; scale starts at 1 and bias at 0.

    Note: nnx's own call takes E[x^2] - E[x]^2, which is off by 0.3 where the mean is 1000.
    """
    return LayerNorm(
        width,
        epsilon=eps,
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(param_dtype),
        rngs=rngs,
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _normalise_rows(
    inputs: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, dtype: str
) -> jax.Array:
    return _rows(inputs, scale, bias, eps, dtype)[0]


@_normalise_rows.defjvp
def _normalise_rows_jvp(
    eps: float, dtype: str, primals: tuple, tangents: tuple
) -> tuple[jax.Array, jax.Array]:
    inputs, scale, bias = primals
    # Not `_normalise_rows`: a second derivative is that of the code below. Two numbers a row are
    # kept by name where a checkpointed block would compute them again.
    outputs, mean, inverse = _rows(inputs, scale, bias, eps, dtype)
    mean, inverse = (checkpoint_name(x, "statistics of rows") for x in (mean, inverse))
    (moved,) = linear_call(
        functools.partial(_rows_tangent, dtype=dtype),
        _rows_gradient,
        (inputs, scale, mean, inverse),
        tangents,
    )
    return outputs, moved


def _rows(
    inputs: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, dtype: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the normalised inputs, and mean and 1 / deviation of each row."""
    wide = inputs.astype(jnp.promote_types(inputs.dtype, scale.dtype))
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    centred = wide - mean
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)
    outputs = centred * inverse * _channels(scale, inputs.ndim) + _channels(bias, inputs.ndim)
    return outputs.astype(dtype), mean, inverse


def _rows_tangent(
    saved: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...], *, dtype: str
) -> tuple[jax.Array]:
    """Returns how the normalised inputs move with inputs, scale and bias."""
    inputs, scale, mean, inverse = saved
    moved, scale_moved, bias_moved = tangents
    normal = (inputs.astype(mean.dtype) - mean) * inverse
    moved = moved.astype(mean.dtype)
    slope = jnp.mean(moved * normal, axis=-1, keepdims=True)
    moved = (moved - jnp.mean(moved, axis=-1, keepdims=True) - normal * slope) * inverse
    outputs = (
        moved * _channels(scale, inputs.ndim)
        + normal * _channels(scale_moved, inputs.ndim)
        + _channels(bias_moved, inputs.ndim)
    )
    return (outputs.astype(dtype),)


def _rows_gradient(
    saved: tuple[jax.Array, ...], grads: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """Returns the gradients of inputs, scale and bias."""
    inputs, scale, mean, inverse = saved
    normal = (inputs.astype(mean.dtype) - mean) * inverse
    grad = grads[0].astype(mean.dtype)
    axes = tuple(range(inputs.ndim - 1))
    scaled = grad * _channels(scale, inputs.ndim)
    slope = jnp.mean(scaled * normal, axis=-1, keepdims=True)
    moved = (scaled - jnp.mean(scaled, axis=-1, keepdims=True) - normal * slope) * inverse
    scale_grad, bias_grad = jnp.sum(grad * normal, axes), jnp.sum(grad, axes)
    return moved.astype(inputs.dtype), scale_grad.astype(scale.dtype), bias_grad.astype(scale.dtype)


class BatchNorm(nnx.Module):
    """Normalises each channel over batch and space, as `torch.nn.BatchNorm2d` does.

    Training uses the statistics of the batch (of the whole batch when it is sharded over devices)
    and moves the running ones; evaluation uses the running ones.

    Args:
      width: Number of channels, the last axis.
      eps: Number added to the variance.
      momentum: Weight of the *new* value in the running statistics (nnx names the old one).
      use_scale: Whether the normalised values are multiplied by a scale that is learned.
      use_bias: Whether a bias that is learned is added.
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
        use_scale: bool = True,
        use_bias: bool = True,
        init_scale: float = 1.0,
        dtype: str,
        param_dtype: str,
    ):
        scale = jnp.full((width,), init_scale, param_dtype)
        self.scale = nnx.Param(scale) if use_scale else None
        self.bias = nnx.Param(jnp.zeros((width,), param_dtype)) if use_bias else None
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
            return self._of_batch(inputs, None)
        # Subtract first: folding the mean into the bias would cancel badly where |mean| >>
        # deviation.
        factor = self._scale() * jax.lax.rsqrt(self.var[...] + self.eps)
        return _scale_and_shift(inputs, self.mean[...], factor, self._bias(), self.dtype)

    def activated(
        self,
        inputs: Float[Array, "batch *space width"],
        activation: Activation | None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch *space width"]:
        """Returns activation(self(inputs)), at the cost of one map less in the backward pass.

        That computes what went into the activation again, of the inputs, which are there.

        Args:
          inputs: Map of any rank, channels last.
          activation: Activation, a plain function; None: none.
          train: Whether the statistics are those of the batch.
        """
        if train and not self.frozen:
            return self._of_batch(inputs, activation)
        outputs = self(inputs, train=train)
        return outputs if activation is None else activation(outputs)

    def _of_batch(self, inputs: jax.Array, activation: Activation | None) -> jax.Array:
        """Returns the outputs of training, and moves the running statistics."""
        count = inputs.size // inputs.shape[-1]
        if count < 2:
            raise InputError(
                "Expected more than 1 value per channel when training, got a BatchNorm's input "
                f"of shape {inputs.shape}: take more images at once (a larger batch, fewer "
                "micro-batches), or larger ones."
            )
        outputs, mean, var = _normalise_batch(
            inputs,
            self._scale(),
            self._bias(),
            jax.lax.stop_gradient(self.mean[...]),
            self.eps,
            self.dtype,
            activation,
        )
        self._move_statistics(mean, var, count=count)
        return outputs

    def _scale(self) -> jax.Array:
        return jnp.ones_like(self.mean[...]) if self.scale is None else self.scale[...]

    def _bias(self) -> jax.Array:
        return jnp.zeros_like(self.mean[...]) if self.bias is None else self.bias[...]

    def _move_statistics(self, mean: jax.Array, var: jax.Array, *, count: int) -> None:
        unbiased = var * (count / (count - 1))
        keep = 1.0 - self.momentum
        mean, unbiased = jax.lax.stop_gradient((mean, unbiased))
        self.mean[...] = keep * self.mean[...] + self.momentum * mean
        self.var[...] = keep * self.var[...] + self.momentum * unbiased


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6))
def _normalise_batch(
    inputs: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    near: jax.Array,
    eps: float,
    dtype: str,
    activation: Activation | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the inputs normalised by their own statistics, and mean and variance.

    The gradient is written out: differentiating the formula reads and writes the map twice as
    often. It goes through the first output only.

    Args:
      inputs: Map, channels last.
      scale: Factor of each channel.
      bias: Number added to each channel.
      near: Guess of the means, see `_statistics`.
      eps: Number added to the variance.
      dtype: Dtype of the first output.
      activation: Activation that follows.
    """
    return _normalise(inputs, scale, bias, near, eps, dtype, activation)[:3]


@_normalise_batch.defjvp
def _normalise_jvp(
    eps: float,
    dtype: str,
    activation: Activation | None,
    primals: tuple,
    tangents: tuple,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    inputs, scale, bias, near = primals
    # Not `_normalise_batch`, which cuts the gradient of the statistics: a second derivative has it.
    outputs, mean, var, inverse = _normalise(inputs, scale, bias, near, eps, dtype, activation)
    saved = (inputs, scale, bias, mean, inverse)
    how = {"dtype": dtype, "activation": activation}
    (moved,) = linear_call(
        functools.partial(_normalise_tangent, **how),
        functools.partial(_normalise_gradient, **how),
        saved,
        tangents[:3],
    )
    return (outputs, mean, var), (moved, jnp.zeros_like(mean), jnp.zeros_like(var))


def _normalise(
    inputs: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    near: jax.Array,
    eps: float,
    dtype: str,
    activation: Activation | None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns the normalised inputs, mean, variance and 1 / deviation."""
    mean, var = _statistics(inputs, near)
    inverse = jax.lax.rsqrt(var + eps)
    outputs = _scale_and_shift(inputs, mean, scale * inverse, bias, dtype)
    return outputs if activation is None else activation(outputs), mean, var, inverse


def _statistics(inputs: jax.Array, near: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and variance of each channel.

    Half precision is read once. Its own rounding, 2^-9 of a value, hides a deviation that is small
    beside the mean; what the sums lose in float32 is 2^-24 of the square, and less the nearer the
    guess `near` is to the mean.
    """
    wide = inputs.astype(near.dtype)
    axes = tuple(range(inputs.ndim - 1))
    if jnp.finfo(inputs.dtype).bits >= jnp.finfo(near.dtype).bits:
        mean = jnp.mean(wide, axes)
        return mean, jnp.mean(jnp.square(wide - _channels(mean, inputs.ndim)), axes)
    off = wide - _channels(near, inputs.ndim)
    shift, square = jnp.mean(off, axes), jnp.mean(jnp.square(off), axes)
    return near + shift, jnp.maximum(square - jnp.square(shift), 0.0)


def _normalise_tangent(
    saved: tuple[jax.Array, ...],
    tangents: tuple[jax.Array, ...],
    *,
    dtype: str,
    activation: Activation | None,
) -> tuple[jax.Array]:
    """Returns how the normalised inputs move with inputs, scale and bias."""
    inputs, scale, bias, mean, inverse = saved
    moved, scale_moved, bias_moved = tangents
    axes, ndim = tuple(range(inputs.ndim - 1)), inputs.ndim
    centred = inputs.astype(scale.dtype) - _channels(mean, ndim)
    moved = moved.astype(scale.dtype)
    factor = scale * inverse
    slope = scale_moved * inverse - factor * inverse**2 * jnp.mean(moved * centred, axes)
    shift = bias_moved - factor * jnp.mean(moved, axes)
    outputs = (
        moved * _channels(factor, ndim) + centred * _channels(slope, ndim) + _channels(shift, ndim)
    ).astype(dtype)
    if activation is not None:
        before = _scale_and_shift(inputs, mean, factor, bias, dtype)
        outputs = jax.jvp(activation, (before,), (outputs,))[1]
    return (outputs,)


def _normalise_gradient(
    saved: tuple[jax.Array, ...],
    grads: tuple[jax.Array, ...],
    *,
    dtype: str,
    activation: Activation | None,
) -> tuple[jax.Array, ...]:
    """Returns the gradients, as Ioffe and Szegedy give them in section 3, gathered by factor."""
    inputs, scale, bias, mean, inverse = saved
    (grad,) = grads
    axes, ndim = tuple(range(inputs.ndim - 1)), inputs.ndim
    factor = scale * inverse
    if activation is not None:
        before = _scale_and_shift(inputs, mean, factor, bias, dtype)
        (grad,) = jax.vjp(activation, before)[1](grad)
    grad = grad.astype(scale.dtype)
    count = inputs.size // inputs.shape[-1]
    centred = inputs.astype(scale.dtype) - _channels(mean, ndim)
    bias_grad = jnp.sum(grad, axes)
    scale_grad = jnp.sum(grad * centred, axes) * inverse
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
