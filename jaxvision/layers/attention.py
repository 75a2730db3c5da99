"""Scaled dot-product attention and the multi-head layer around it."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxvision.layers.dropout import draw_key, drop
from jaxvision.layers.linear import linear


def dot_product_attention(
    query: Float[Array, "batch targets heads head_dim"],
    keys: Float[Array, "batch sources heads head_dim"],
    values: Float[Array, "batch sources heads head_dim"],
    *,
    bias: Float[Array, "#batch #heads #targets #sources"] | None = None,
    mask: Bool[Array, "#batch #heads #targets #sources"] | None = None,
    implementation: str = "fused",
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> Float[Array, "batch targets heads head_dim"]:
    """Returns softmax(query keys^T / sqrt(head_dim) + bias) values.

    Scores and softmax are computed in at least float32, whatever comes in.

    Args:
      query: Queries, what each target looks for.
      keys: Keys, what each source offers.
      values: Values, what each source gives.
      bias: Numbers added to the scores.
      mask: Mask, True where a target may attend. A row that is False everywhere gives the mean of
        the values.
      implementation: Name of the implementation: "fused" (batched matrix products with the division
        of the softmax put off to the end), "reference" (the formula as written) or "cudnn" (GPU,
        float16 and bfloat16 only; never chosen by itself).
      dropout_rate: Probability of dropping a weight.
      dropout_key: Key for the randomness of the dropout; None turns it off.

    Raises:
      ValueError: if `implementation` is unknown, or "cudnn" cannot run these inputs.

    Source: Vaswani et al. 2017, Attention Is All You Need, eq. 1.
    """
    check_implementation(implementation)
    dropout_key = dropout_key if dropout_rate > 0.0 else None
    if implementation == "cudnn":
        if dropout_key is not None or query.dtype not in (jnp.float16, jnp.bfloat16):
            raise ValueError(
                "attention='cudnn' needs float16 or bfloat16 and no dropout on the weights, got "
                f"{query.dtype} and a rate of {0.0 if dropout_key is None else dropout_rate}: "
                "use 'fused'."
            )
        return jax.nn.dot_product_attention(
            query, keys, values, bias=bias, mask=mask, implementation="cudnn"
        )
    scores = _scores(query, keys, bias=bias, mask=mask)
    if implementation == "reference":
        weights, total = jax.nn.softmax(scores, axis=-1), None
    else:
        # Dividing the few outputs instead of the many weights, and matrix products over [batch,
        # heads, ...]: jax.nn.dot_product_attention takes 2 to 3 times as long on a CPU.
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
        total = weights.sum(axis=-1, keepdims=True)
    if dropout_key is not None:
        weights = drop(weights, dropout_rate, dropout_key)
    attended = jnp.einsum(
        "BNTS,BNSH->BNTH",
        weights.astype(values.dtype),
        values.swapaxes(1, 2),
        preferred_element_type=scores.dtype,
    )
    attended = attended if total is None else attended / total
    return attended.swapaxes(1, 2).astype(values.dtype)


def attention_weights(
    query: Float[Array, "batch targets heads head_dim"],
    keys: Float[Array, "batch sources heads head_dim"],
    *,
    bias: Float[Array, "#batch #heads #targets #sources"] | None = None,
    mask: Bool[Array, "#batch #heads #targets #sources"] | None = None,
) -> Float[Array, "batch heads targets sources"]:
    """Returns the weights that `dot_product_attention` gives to the sources, in at least float32.

    Args:
      query: Queries, what each target looks for.
      keys: Keys, what each source offers.
      bias: Numbers added to the scores.
      mask: Mask, True where a target may attend.
    """
    return jax.nn.softmax(_scores(query, keys, bias=bias, mask=mask), axis=-1)


def _scores(
    query: jax.Array, keys: jax.Array, *, bias: jax.Array | None, mask: jax.Array | None
) -> jax.Array:
    """Returns what the softmax is taken of, [batch, heads, targets, sources]."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("BTNH,BSNH->BNTS", query, keys, preferred_element_type=wide) * (
        query.shape[-1] ** -0.5
    )
    if bias is not None:
        scores = scores + bias.astype(wide)
    if mask is not None:
        # The lowest finite score, not -inf: a fully masked row must stay finite, also in the
        # gradient.
        scores = jnp.where(mask, scores, jnp.finfo(wide).min)
    return scores


def check_implementation(implementation: str) -> None:
    """Raises ValueError unless the name is one that `dot_product_attention` knows."""
    if implementation not in ("fused", "reference", "cudnn"):
        raise ValueError(
            f"attention must be 'fused', 'reference' or 'cudnn', got {implementation!r}."
        )


class MultiHeadAttention(nnx.Module):
    """Attention of tokens to themselves, or to a memory, in several heads.

    Initial values as timm's ViT: kernels trunc-normal 0.02, biases 0. The kernels are plain
    [width, width] matrices; their heads-side is ordered head by head.

    Args:
      width: Number of channels of the tokens, in and out.
      num_heads: Number of heads; `width` must be a multiple of it.
      memory_width: Number of channels of the memory; None: `width`.
      attention_dropout_rate: Probability of dropping an attention weight.
      implementation: Name of the implementation, see `dot_product_attention`.
      dtype: Compute dtype.
      param_dtype: Dtype of the parameters.
      rngs: Source of the initial values.

    Raises:
      ValueError: if `width` is not a multiple of `num_heads`.

    Source: Vaswani et al. 2017, Attention Is All You Need, section 3.2.2.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        memory_width: int | None = None,
        attention_dropout_rate: float = 0.0,
        implementation: str = "fused",
        dtype: str,
        param_dtype: str,
        rngs: nnx.Rngs,
    ):
        if width % num_heads:
            raise ValueError(f"width {width} must be a multiple of num_heads {num_heads}.")
        check_implementation(implementation)

        make = functools.partial(linear, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.query = make(width, width)
        self.key = make(memory_width or width, width)
        self.value = make(memory_width or width, width)
        self.out = make(width, width)
        self.num_heads = num_heads
        self.attention_dropout_rate = attention_dropout_rate
        self.implementation = implementation

    def __call__(
        self,
        tokens: Float[Array, "batch targets width"],
        memory: Float[Array, "batch sources memory_width"] | None = None,
        *,
        bias: Float[Array, "#batch #heads #targets #sources"] | None = None,
        mask: Bool[Array, "#batch #heads #targets #sources"] | None = None,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch targets width"]:
        """Returns the new tokens.

        Args:
          tokens: Tokens that the queries come from.
          memory: Memory that keys and values come from; None: the tokens themselves.
          bias: Numbers added to the scores.
          mask: Mask, True where a target may attend.
          train: Whether the dropout is on.
          rngs: Source of randomness; needed only if `train` and the rate is > 0.

        Raises:
          ValueError: if randomness is needed and `rngs` is None.
        """
        keys, values = self.keys_and_values(tokens if memory is None else memory)
        return self.attend(tokens, keys, values, bias=bias, mask=mask, train=train, rngs=rngs)

    def keys_and_values(
        self, memory: Float[Array, "batch sources memory_width"]
    ) -> tuple[
        Float[Array, "batch sources heads head_dim"], Float[Array, "batch sources heads head_dim"]
    ]:
        """Returns what a memory offers and gives: the same for whatever is asked of it."""
        return self._heads(self.key(memory)), self._heads(self.value(memory))

    def attend(
        self,
        tokens: Float[Array, "batch targets width"],
        keys: Float[Array, "batch sources heads head_dim"],
        values: Float[Array, "batch sources heads head_dim"],
        *,
        bias: Float[Array, "#batch #heads #targets #sources"] | None = None,
        mask: Bool[Array, "#batch #heads #targets #sources"] | None = None,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch targets width"]:
        """Returns the new tokens from keys and values that are already there; see the call."""
        drops = train and self.attention_dropout_rate > 0.0
        attended = dot_product_attention(
            self._heads(self.query(tokens)),
            keys,
            values,
            bias=bias,
            mask=mask,
            implementation=self.implementation,
            dropout_rate=self.attention_dropout_rate,
            dropout_key=draw_key(rngs, "attention dropout") if drops else None,
        )
        return self.out(attended.reshape(tokens.shape))

    def weights(
        self,
        tokens: Float[Array, "batch targets width"],
        memory: Float[Array, "batch sources memory_width"] | None = None,
        *,
        bias: Float[Array, "#batch #heads #targets #sources"] | None = None,
        mask: Bool[Array, "#batch #heads #targets #sources"] | None = None,
    ) -> Float[Array, "batch heads targets sources"]:
        """Returns the attention weights of the same call without dropout: each row sums to 1."""
        memory = tokens if memory is None else memory
        query, keys = self._heads(self.query(tokens)), self._heads(self.key(memory))
        return attention_weights(query, keys, bias=bias, mask=mask)

    def _heads(
        self, projected: Float[Array, "batch tokens width"]
    ) -> Float[Array, "batch tokens heads head_dim"]:
        batch, tokens, width = projected.shape
        return projected.reshape(batch, tokens, self.num_heads, width // self.num_heads)
