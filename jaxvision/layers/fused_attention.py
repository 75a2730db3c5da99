"""Attention by batched matrix products, with a backward pass that computes the weights again.

Only the outputs and two numbers a row are kept for it, not the weights, which are larger than all
else: the queries and keys that made them are there anyway. Operands keep their dtype, products are
summed in at least float32, in both directions.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from jaxvision.layers.linear_call import linear_call

Arrays = tuple[jax.Array, ...]
Parts = dict[str, Any]  # arrays


def fused_attention(
    query: Float[Array, "batch targets heads head_dim"],
    keys: Float[Array, "batch sources heads head_dim"],
    values: Float[Array, "batch sources heads head_dim"],
    *,
    bias: Float[Array, "#batch #heads #targets #sources"] | None = None,
    mask: Bool[Array, "#batch #heads #targets #sources"] | None = None,
    keep: Bool[Array, "batch heads targets sources"] | None = None,
    dropout_rate: float = 0.0,
) -> Float[Array, "batch targets heads head_dim"]:
    """Returns softmax(query keys^T / sqrt(head_dim) + bias) values; see `dot_product_attention`.

    Args:
      query: Queries, what each target looks for.
      keys: Keys, what each source offers.
      values: Values, what each source gives.
      bias: Numbers added to the scores.
      mask: Mask, True where a target may attend.
      keep: Mask of the dropout, True where a weight stays; the others are 0.
      dropout_rate: Probability of dropping that `keep` was drawn with.
    """
    given = {"bias": bias, "mask": mask, "keep": keep}
    parts = {"query": query, "keys": keys, "values": values}
    parts |= {name: x for name, x in given.items() if x is not None}
    return _attention(dropout_rate, parts)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attention(dropout_rate: float, parts: Parts) -> jax.Array:
    return _forward(dropout_rate, parts)[0]


@_attention.defjvp
def _attention_jvp(
    dropout_rate: float, primals: tuple[Parts], tangents: tuple[Parts]
) -> tuple[jax.Array, jax.Array]:
    (parts,), (moved,) = primals, tangents
    # Not `_attention`: the second derivative is that of the code below. The names make a
    # checkpointed block keep these three, so that it need not run the forward pass again.
    output, top, total = (checkpoint_name(x, "attention") for x in _forward(dropout_rate, parts))
    saved = parts | {"output": output, "top": top, "total": total}
    moving = [name for name in ("query", "keys", "values", "bias") if name in parts]
    names = {"names": tuple(saved), "moving": tuple(moving), "dropout_rate": dropout_rate}
    (tangent,) = linear_call(
        functools.partial(_tangent, **names),
        functools.partial(_gradient, **names),
        tuple(saved.values()),
        tuple(moved[name] for name in moving),
    )
    return output, tangent


def _forward(dropout_rate: float, parts: Parts) -> Arrays:
    """Returns the outputs, and of each row the largest score and the sum of the exponentials."""
    values = parts["values"]
    scores = attention_scores(
        parts["query"], parts["keys"], bias=parts.get("bias"), mask=parts.get("mask")
    )
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    # Dividing the few outputs instead of the many weights, and matrix products over [batch, heads,
    # ...]: jax.nn.dot_product_attention takes 2 to 3 times as long on a CPU.
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    weights = _dropped(weights, parts, dropout_rate)
    output = _product("BNTS,BSNH->BNTH", weights.astype(values.dtype), values) / total
    return output.swapaxes(1, 2).astype(values.dtype), top, total


def _weights(saved: Parts) -> jax.Array:
    """Returns the softmax of the scores, [batch, heads, targets, sources]."""
    scores = attention_scores(
        saved["query"], saved["keys"], bias=saved.get("bias"), mask=saved.get("mask")
    )
    return jnp.exp(scores - saved["top"]) / saved["total"]


def _tangent(
    saved: Arrays, tangents: Arrays, *, names: tuple, moving: tuple, dropout_rate: float
) -> Arrays:
    """Returns how the outputs move with queries, keys, values and bias."""
    parts = dict(zip(names, saved, strict=True))
    moved = dict(zip(moving, tangents, strict=True))
    query, keys, values = parts["query"], parts["keys"], parts["values"]
    weights, scale = _weights(parts), query.shape[-1] ** -0.5
    scores = scale * (
        _product("BTNH,BSNH->BNTS", moved["query"], keys)
        + _product("BTNH,BSNH->BNTS", query, moved["keys"])
    )
    if "bias" in moved:
        scores = scores + moved["bias"].astype(scores.dtype)
    scores = _unmasked(scores, parts)
    change = weights * (scores - jnp.sum(weights * scores, axis=-1, keepdims=True))
    change, weights = (_dropped(x, parts, dropout_rate) for x in (change, weights))
    output = _product("BNTS,BSNH->BTNH", weights.astype(values.dtype), moved["values"])
    output = output + _product("BNTS,BSNH->BTNH", change.astype(values.dtype), values)
    return (output.astype(values.dtype),)


def _gradient(
    saved: Arrays, grads: Arrays, *, names: tuple, moving: tuple, dropout_rate: float
) -> Arrays:
    """Returns the gradients of queries, keys, values and bias.

    Source: Dao et al. 2022, FlashAttention, algorithm 4, without its tiles.
    """
    parts = dict(zip(names, saved, strict=True))
    query, keys, values = parts["query"], parts["keys"], parts["values"]
    weights, grad = _weights(parts), grads[0]
    wide = weights.dtype
    weights_grad = _product("BTNH,BSNH->BNTS", grad, values)
    weights_grad = _dropped(weights_grad, parts, dropout_rate)
    inner = jnp.sum(grad.astype(wide) * parts["output"].astype(wide), axis=-1)
    scores_grad = weights * (weights_grad - inner.swapaxes(1, 2)[..., None])
    scores_grad = _unmasked(scores_grad, parts)
    weights = _dropped(weights, parts, dropout_rate).astype(values.dtype)
    narrow = (scores_grad * query.shape[-1] ** -0.5).astype(query.dtype)
    of = {
        "query": _product("BNTS,BSNH->BTNH", narrow, keys).astype(query.dtype),
        "keys": _product("BNTS,BTNH->BSNH", narrow, query).astype(keys.dtype),
        "values": _product("BNTS,BTNH->BSNH", weights, grad).astype(values.dtype),
    }
    if "bias" in moving:
        bias = parts["bias"]
        axes = [i for i, n in enumerate(bias.shape) if n != scores_grad.shape[i]]
        of["bias"] = jnp.sum(scores_grad, axes, keepdims=True).astype(bias.dtype)
    return tuple(of[name] for name in moving)


def _dropped(weights: jax.Array, parts: Parts, rate: float) -> jax.Array:
    return jnp.where(parts["keep"], weights / (1.0 - rate), 0.0) if "keep" in parts else weights


def _unmasked(scores: jax.Array, parts: Parts) -> jax.Array:
    return jnp.where(parts["mask"], scores, 0.0) if "mask" in parts else scores


def _product(axes: str, left: jax.Array, right: jax.Array) -> jax.Array:
    wide = jnp.promote_types(right.dtype, jnp.float32)
    return jnp.einsum(axes, left, right, preferred_element_type=wide)


def attention_scores(
    query: Float[Array, "batch targets heads head_dim"],
    keys: Float[Array, "batch sources heads head_dim"],
    *,
    bias: Float[Array, "#batch #heads #targets #sources"] | None = None,
    mask: Bool[Array, "#batch #heads #targets #sources"] | None = None,
) -> Float[Array, "batch heads targets sources"]:
    """Returns what the softmax is taken of, in at least float32.

    Args:
      query: Queries, what each target looks for.
      keys: Keys, what each source offers.
      bias: Numbers added to the scores.
      mask: Mask, True where a target may attend.
    """
    scores = _product("BTNH,BSNH->BNTS", query, keys) * (query.shape[-1] ** -0.5)
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    if mask is not None:
        # The lowest finite score, not -inf: a fully masked row must stay finite, also in the
        # gradient.
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    return scores
