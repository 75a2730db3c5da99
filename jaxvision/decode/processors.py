"""Rules that change the scores of the next token by what a row has so far.

Each takes and returns logits or log-probabilities, one for each token of the vocabulary, and is
the processor of `transformers.generation` with a static shape: rows have all T places, of which
the first `length` count.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jaxvision.decode.settings import DecodeSettings

Scores = Float[Array, "*rows vocabulary"]
Tokens = Int32[Array, "*rows max_length"]


def process(
    scores: Scores, tokens: Tokens, length: Int32[Array, ""], *, settings: DecodeSettings
) -> Scores:
    """Applies those rules that are on, in the order of Hugging Face.

    Args:
      scores: Logits or log-probabilities of the next token.
      tokens: Tokens of each row so far.
      length: Number of tokens that each row has.
      settings: Settings that say which rules are on.
    """
    if settings.repetition_penalty != 1.0:
        scores = penalize_repetition(scores, tokens, length, penalty=settings.repetition_penalty)
    if settings.no_repeat_ngram_size > 0:
        scores = ban_repeated_ngrams(scores, tokens, length, size=settings.no_repeat_ngram_size)
    if settings.min_length > 1:  # <START> is there from the beginning
        banned = _is_one_of(scores, (settings.end,)) & (length < settings.min_length)
        scores = jnp.where(banned, -jnp.inf, scores)
    if settings.suppress_tokens:
        scores = jnp.where(_is_one_of(scores, settings.suppress_tokens), -jnp.inf, scores)
    return scores


def penalize_repetition(
    scores: Scores, tokens: Tokens, length: Int32[Array, ""], *, penalty: float
) -> Scores:
    """Returns scores with those of tokens that a row has already made worse.

    A positive score is divided by the penalty and a negative one multiplied with it, so logits and
    log-probabilities give different results; so they do in Hugging Face.

    Args:
      scores: Scores of the next token.
      tokens: Tokens of each row so far.
      length: Number of tokens that each row has.
      penalty: Penalty of the tokens that a row has already, above 0; below 1 makes them better.
    """
    taken = jnp.take_along_axis(scores, tokens, axis=-1)
    worse = jnp.where(taken < 0, taken * penalty, taken / penalty)
    return _set(scores, jnp.where(_index(tokens) < length, tokens, scores.shape[-1]), worse)


def ban_repeated_ngrams(
    scores: Scores, tokens: Tokens, length: Int32[Array, ""], *, size: int
) -> Scores:
    """Returns scores with -inf for each token that would complete an n-gram for the second time.

    Args:
      scores: Scores of the next token.
      tokens: Tokens of each row so far.
      length: Number of tokens that each row has.
      size: Size n of the n-grams, at least 1.
    """
    max_length = tokens.shape[-1]
    if max_length < size:
        return scores
    ends = tokens[..., size - 1 :]  # the last token of each n-gram, [*rows, n-grams]
    repeats = jnp.broadcast_to(_index(ends) + size <= length, ends.shape)
    prefix = jax.lax.dynamic_slice_in_dim(tokens, length - size + 1, size - 1, axis=-1)
    for i in range(size - 1):
        repeats &= tokens[..., i : i + ends.shape[-1]] == prefix[..., i : i + 1]
    banned = jnp.where(repeats, ends, scores.shape[-1])
    return _set(scores, banned, jnp.full(banned.shape, -jnp.inf, scores.dtype))


def _set(scores: jax.Array, places: jax.Array, values: jax.Array) -> jax.Array:
    """Returns the scores with values at places along the last axis; those behind it are dropped."""
    rows = jnp.indices(places.shape, sparse=True)[:-1]
    return scores.at[(*rows, places)].set(values, mode="drop")


def _index(tokens: jax.Array) -> jax.Array:
    """Returns 0, 1, .. along the last axis, of the same rank."""
    return jax.lax.broadcasted_iota(
        jnp.int32, (1,) * (tokens.ndim - 1) + tokens.shape[-1:], tokens.ndim - 1
    )


def _is_one_of(scores: jax.Array, tokens: tuple[int, ...]) -> jax.Array:
    """Returns whether each entry of the last axis belongs to one of the tokens, same rank."""
    entries = _index(scores)
    return jnp.any(jnp.stack([entries == token for token in tokens]), axis=0)
