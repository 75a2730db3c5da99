"""Scaled dot-product attention and the multi-head layer around it."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxvision.layers.cudnn_attention import cudnn_attention, cudnn_obstacle
from jaxvision.layers.dropout import draw_kept, draw_key
from jaxvision.layers.fused_attention import attention_scores, fused_attention
from jaxvision.layers.linear import linear
from jaxvision.layers.tap import tap
from jaxvision.target_platform import target_platform

_FEW_TARGETS = 16  # fewer, as in decoding, leave cuDNN's tiles empty


def dot_product_attention(
    query: Float[Array, "batch targets heads head_dim"],
    keys: Float[Array, "batch sources heads head_dim"],
    values: Float[Array, "batch sources heads head_dim"],
    *,
    bias: Float[Array, "#batch #heads #targets #sources"] | None = None,
    mask: Bool[Array, "#batch #heads #targets #sources"] | None = None,
    num_sources: int | None = None,
    implementation: str = "auto",
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
      num_sources: Number of sources that count: what follows them is padding. None: all.
      implementation: Name of the implementation: "auto" ("cudnn" on a GPU wherever it can run these
        inputs, elsewhere "fused"), "fused" (batched matrix products, the weights computed again for
        the gradient), "cudnn" (cuDNN's fused kernel; float16 and bfloat16, without dropout) or
        "reference" (the formula as written).
      dropout_rate: Probability of dropping a weight.
      dropout_key: Key for the randomness of the dropout; None turns it off.

    Raises:
      ValueError: if `implementation` is unknown, or "cudnn" cannot run these inputs.

    Source: Vaswani et al. 2017, Attention Is All You Need, eq. 1.
    """
    attended = _attend(
        query,
        keys,
        values,
        bias=bias,
        mask=mask,
        num_sources=num_sources,
        implementation=implementation,
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
    )

    def beside() -> dict[str, jax.Array]:
        # Behind a barrier, so that the compiler does not merge this with what the model computes.
        inputs = jax.lax.optimization_barrier((query, keys, values))
        asked, offered, given = inputs
        cut = slice(num_sources)
        biases, masks = (None if x is None else x[..., cut] for x in (bias, mask))
        weights = attention_weights(asked, offered[:, cut], bias=biases, mask=masks)
        return {"weights": weights, "values": given[:, cut]}

    return tap("attention", attended, beside)


def _attend(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    *,
    bias: jax.Array | None,
    mask: jax.Array | None,
    num_sources: int | None,
    implementation: str,
    dropout_rate: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Returns what `dot_product_attention` says."""
    dropout_key = dropout_key if dropout_rate > 0.0 else None
    drops = dropout_key is not None
    implementation = _choose(
        implementation, query.dtype, head_dim=query.shape[-1], targets=query.shape[1], drops=drops
    )
    if implementation == "cudnn":
        return cudnn_attention(query, keys, values, bias=bias, mask=mask, num_sources=num_sources)
    if num_sources is not None:
        keys, values = keys[:, :num_sources], values[:, :num_sources]
        bias, mask = (None if x is None else x[..., :num_sources] for x in (bias, mask))
    keep = None
    if dropout_key is not None:
        shape = (query.shape[0], query.shape[2], query.shape[1], keys.shape[1])
        keep = draw_kept(dropout_key, dropout_rate, shape)
    if implementation == "fused":
        return fused_attention(
            query, keys, values, bias=bias, mask=mask, keep=keep, dropout_rate=dropout_rate
        )
    weights = attention_weights(query, keys, bias=bias, mask=mask)
    if keep is not None:
        weights = jnp.where(keep, weights / (1.0 - dropout_rate), 0.0)
    attended = jnp.einsum("BNTS,BSNH->BTNH", weights, values.astype(weights.dtype))
    return attended.astype(values.dtype)


def _choose(
    implementation: str, dtype: jnp.dtype, *, head_dim: int, targets: int, drops: bool
) -> str:
    """Returns the implementation that "auto" stands for; raises ValueError for what cannot run."""
    check_implementation(implementation)
    if implementation not in ("auto", "cudnn"):
        return implementation
    obstacle = cudnn_obstacle(dtype, head_dim=head_dim, drops=drops)
    if implementation == "cudnn" and obstacle:
        raise ValueError(f"attention='cudnn' {obstacle}: use 'auto'.")
    if implementation == "auto":
        fits = target_platform() == "gpu" and targets >= _FEW_TARGETS and not obstacle
        implementation = "cudnn" if fits else "fused"
    return implementation


def pad_tokens(
    tokens: Float[Array, "batch tokens *groups width"],
    *,
    bias: Float[Array, "#batch #heads tokens tokens"] | None = None,
    mask: Bool[Array, "#batch #heads tokens tokens"] | None = None,
    multiple: int = 8,
    num_heads: int,
    implementation: str,
    drops: bool,
) -> tuple[
    Float[Array, "batch padded *groups width"],
    Float[Array, "#batch #heads padded padded"] | None,
    Bool[Array, "#batch #heads padded padded"] | None,
]:
    """Returns tokens, bias and mask for an attention that runs best on aligned numbers of tokens.

    cuDNN wants an even number, and products a multiple of 8: padding the tokens once spares the
    attention padded copies of queries, keys and values. It must be told `num_sources`, and the
    padding be cut off behind it.

    Args:
      tokens: Tokens of the attention, or of all blocks.
      bias: Numbers added to the scores.
      mask: Mask of the attention.
      multiple: Number that the number of tokens is rounded up to a multiple of, even.
      num_heads: Number of attention heads.
      implementation: Name of the implementation, see `dot_product_attention`.
      drops: Whether weights are dropped.
    """
    count, head_dim = tokens.shape[1], tokens.shape[-1] // num_heads
    chosen = _choose(implementation, tokens.dtype, head_dim=head_dim, targets=count, drops=drops)
    extra = -count % multiple
    if chosen != "cudnn" or not extra:
        return tokens, bias, mask
    pairs = ((0, 0), (0, 0), (0, extra), (0, extra))
    return (
        jnp.pad(tokens, ((0, 0), (0, extra), *((0, 0),) * (tokens.ndim - 2))),
        None if bias is None else jnp.pad(bias, pairs),
        None if mask is None else jnp.pad(mask, pairs, constant_values=True),
    )


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
    return jax.nn.softmax(attention_scores(query, keys, bias=bias, mask=mask), axis=-1)


def check_implementation(implementation: str) -> None:
    """Raises ValueError unless the name is one that `dot_product_attention` knows."""
    if implementation not in ("auto", "fused", "reference", "cudnn"):
        raise ValueError(
            f"attention must be 'auto', 'fused', 'reference' or 'cudnn', got {implementation!r}."
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
        implementation: str = "auto",
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
        tokens: Float[Array, "batch targets *groups width"],
        memory: Float[Array, "batch sources memory_width"] | None = None,
        *,
        bias: Float[Array, "#batch #heads #targets #sources"] | None = None,
        mask: Bool[Array, "#batch #heads #targets #sources"] | None = None,
        num_sources: int | None = None,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch targets *groups width"]:
        """Returns the new tokens.

        Args:
          tokens: Tokens that the queries come from. Groups attend to themselves alone, as heads do:
            bias and mask number the heads group by group.
          memory: Memory that keys and values come from; None: the tokens themselves.
          bias: Numbers added to the scores.
          mask: Mask, True where a target may attend.
          num_sources: Number of sources that count: what follows them is padding. None: all.
          train: Whether the dropout is on.
          rngs: Source of randomness; needed only if `train` and the rate is > 0.

        Raises:
          ValueError: if randomness is needed and `rngs` is None.
        """
        keys, values = self.keys_and_values(tokens if memory is None else memory)
        return self.attend(
            tokens,
            keys,
            values,
            bias=bias,
            mask=mask,
            num_sources=num_sources,
            train=train,
            rngs=rngs,
        )

    def keys_and_values(
        self, memory: Float[Array, "batch sources *groups memory_width"]
    ) -> tuple[
        Float[Array, "batch sources heads head_dim"], Float[Array, "batch sources heads head_dim"]
    ]:
        """Returns what a memory offers and gives: the same for whatever is asked of it."""
        return self._heads(self.key(memory)), self._heads(self.value(memory))

    def attend(
        self,
        tokens: Float[Array, "batch targets *groups width"],
        keys: Float[Array, "batch sources heads head_dim"],
        values: Float[Array, "batch sources heads head_dim"],
        *,
        bias: Float[Array, "#batch #heads #targets #sources"] | None = None,
        mask: Bool[Array, "#batch #heads #targets #sources"] | None = None,
        num_sources: int | None = None,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch targets *groups width"]:
        """Returns the new tokens from keys and values that are already there; see the call."""
        drops = train and self.attention_dropout_rate > 0.0
        attended = dot_product_attention(
            self._heads(self.query(tokens)),
            keys,
            values,
            bias=bias,
            mask=mask,
            num_sources=num_sources,
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
        self, projected: Float[Array, "batch tokens *groups width"]
    ) -> Float[Array, "batch tokens heads head_dim"]:
        batch, tokens, *groups, width = projected.shape
        heads = math.prod(groups) * self.num_heads
        return projected.reshape(batch, tokens, heads, width // self.num_heads)
