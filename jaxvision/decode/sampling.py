"""Drawing the next token: temperature, top-k and nucleus, each row with its own randomness."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32, Key, PRNGKeyArray

from jaxvision.decode.settings import DecodeSettings
from jaxvision.decode.top_k import argmax, top_k

Logits = Float[Array, "*rows vocabulary"]


def sample_keys(
    key: PRNGKeyArray, image_ids: Int[Array, " batch"], num_samples: int
) -> Key[Array, "batch samples"]:
    """Returns a key for each sample of each image.

    It depends on the image's id and on the sample's number, and on neither the image's place in a
    batch nor the number of samples.

    Args:
      key: Key of the run.
      image_ids: Ids of the images, different for different images.
      num_samples: Number of samples for each image.
    """
    fold = jax.random.fold_in
    return jax.vmap(
        lambda image: jax.vmap(lambda sample: fold(fold(key, image), sample))(
            jnp.arange(num_samples)
        )
    )(image_ids)


def sample(
    keys: Key[Array, "*rows"], logits: Logits, *, settings: DecodeSettings
) -> Int32[Array, "*rows"]:
    """Draws a token for each row.

    Args:
      keys: Keys of the rows, one for each row.
      logits: Logits of the next token.
      settings: Settings of which temperature, top_k and top_p are applied, in this order.
    """
    logits = logits / settings.temperature
    if 0 < settings.top_k < logits.shape[-1]:
        logits = keep_top_k(logits, settings.top_k)
    if settings.top_p < 1.0:
        logits = keep_top_p(logits, settings.top_p)
    vocabulary, dtype = logits.shape[-1], logits.dtype

    def noise(key: jax.Array) -> jax.Array:
        return jax.random.gumbel(key, (vocabulary,), dtype)

    # The greatest of the logits with Gumbel noise is a draw from their softmax.
    return argmax(logits + jnp.vectorize(noise, signature="()->(v)")(keys))


def keep_top_k(logits: Logits, count: int) -> Logits:
    """Returns logits with -inf for all but the `count` greatest, and those equal to the last."""
    rows = logits.reshape(-1, 1, logits.shape[-1])
    greatest, _ = top_k(rows, jnp.zeros(rows.shape[:2], logits.dtype), count)
    least = greatest[:, -1].reshape(*logits.shape[:-1], 1)
    return jnp.where(logits < least, -jnp.inf, logits)


def keep_top_p(logits: Logits, probability: float) -> Logits:
    """Returns logits with -inf outside the smallest set of at least this probability.

    Args:
      logits: Logits of the next token.
      probability: Probability that the set holds at least, in (0, 1).

    Note:
      Tokens of equal probability stay or go together; Hugging Face keeps some of them.
    """
    shares = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))  # of the greatest
    enough = probability * jnp.sum(shares, axis=-1, keepdims=True)

    def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        holds = jnp.sum(jnp.where(shares >= middle, shares, 0.0), -1, keepdims=True) >= enough
        return jnp.where(holds, middle, low), jnp.where(holds, high, middle)

    # Bisection for the least share that is kept, up to 1e-9: to sort takes a CPU 20 times as long.
    bounds = (jnp.zeros_like(enough), jnp.full_like(enough, 2.0))
    low, _ = jax.lax.fori_loop(0, 31, halve, bounds)
    return jnp.where(shares < low, -jnp.inf, logits)
