"""Attention by cuDNN's fused kernels, which keep neither scores nor weights in memory."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_MAX_HEAD_DIM = 128  # 256 on Hopper and later
_OLDEST = (8, 0)  # compute capability: that of an A100


def cudnn_obstacle(dtype: Any, *, head_dim: int, drops: bool) -> str:
    """Returns why cuDNN cannot attend with such queries; empty if it can.

    Args:
      dtype: Dtype of queries, keys and values.
      head_dim: Number of channels of a head.
      drops: Whether weights are dropped. cuDNN would: with the same mask in each layer and step,
        because its seed is part of the compiled program.
    """
    if dtype not in (jnp.float16, jnp.bfloat16):
        return f"needs float16 or bfloat16, got {dtype}"
    if head_dim % 8 or head_dim > _MAX_HEAD_DIM:
        return f"needs a head_dim of 8, 16, ... {_MAX_HEAD_DIM}, got {head_dim}"
    if drops:
        return "has no dropout of weights"
    return _device_obstacle() if jax.default_backend() == "gpu" else ""  # or it is planned for one


def _device_obstacle() -> str:
    """Returns why this machine's GPU has no such kernels: a T4 and a V100 have none, nor AMD's."""
    device = jax.local_devices()[0]
    capability = str(getattr(device, "compute_capability", ""))  # "9.0"; AMD's: "gfx90a"
    number = re.fullmatch(r"(\d+)\.(\d+)", capability)
    if number and tuple(map(int, number.groups())) >= _OLDEST:
        return ""
    return f"needs an NVIDIA GPU of compute capability 8.0 or later, got {device.device_kind}"


def cudnn_attention(
    query: Float[Array, "batch targets heads head_dim"],
    keys: Float[Array, "batch sources heads head_dim"],
    values: Float[Array, "batch sources heads head_dim"],
    *,
    bias: Float[Array, "#batch #heads #targets #sources"] | None = None,
    mask: Bool[Array, "#batch #heads #targets #sources"] | None = None,
    num_sources: int | None = None,
) -> Float[Array, "batch targets heads head_dim"]:
    """Returns softmax(query keys^T / sqrt(head_dim) + bias) values; see `dot_product_attention`.

    The gradients need even numbers of tokens: where they are not, tokens are added that the lengths
    hide again.

    Args:
      query: Queries, what each target looks for.
      keys: Keys, what each source offers.
      values: Values, what each source gives.
      bias: Numbers added to the scores, rounded to the dtype of the queries.
      mask: Mask, True where a target may attend.
      num_sources: Number of sources that count: what follows them is padding. None: all.
    """
    batch, targets, sources = query.shape[0], query.shape[1], keys.shape[1]
    padded = targets % 2 or sources % 2 or num_sources is not None
    bias, mask = (_of_all_pairs(x, targets, sources) for x in (bias, mask))
    attended = jax.nn.dot_product_attention(
        _even(query, 1),
        _even(keys, 1),
        _even(values, 1),
        bias=bias,
        mask=mask,
        query_seq_lengths=jnp.full((batch,), targets, jnp.int32) if padded else None,
        key_value_seq_lengths=(
            jnp.full((batch,), num_sources or sources, jnp.int32) if padded else None
        ),
        implementation="cudnn",
    )
    return attended[:, :targets]


def _of_all_pairs(pairs: jax.Array | None, targets: int, sources: int) -> jax.Array | None:
    """Returns a bias or mask with a number for each pair of the padded tokens."""
    if pairs is None:
        return None
    pairs = jnp.broadcast_to(pairs, (*pairs.shape[:2], targets, sources))
    return _even(_even(pairs, 2), 3)


def _even(array: jax.Array, axis: int) -> jax.Array:
    """Returns the array with one more element along an axis of odd length."""
    if array.shape[axis] % 2 == 0:
        return array
    padding = [(0, int(i == axis)) for i in range(array.ndim)]
    return jnp.pad(array, padding)
