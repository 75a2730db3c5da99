"""Drawing the next token: temperature, top-k and nucleus, each row with its own randomness."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32, Key, PRNGKeyArray

from jaxvision.decode.settings import DecodeSettings

Logits = Float[Array, "*rows vocabulary"]


def sample_keys(
    key: PRNGKeyArray, image_ids: Int[Array, " batch"], num_samples: int
) -> Key[Array, "batch samples"]:
    """Returns a key for each sample of each image.

    It depends on the image's id and on the sample's number, and on neither the image's place in a
    batch nor the number of samples.

    Args:
      key: of the run.
      image_ids: different for different images.
      num_samples: for each image.
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
      keys: one for each row.
      logits: of the next token.
      settings: temperature, top_k and top_p, applied in this order.
    """
    logits = logits / settings.temperature
    if 0 < settings.top_k < logits.shape[-1]:
        logits = keep_top_k(logits, settings.top_k)
    if settings.top_p < 1.0:
        logits = keep_top_p(logits, settings.top_p)
    draw = jnp.vectorize(jax.random.categorical, signature="(),(v)->()")
    return draw(keys, logits).astype(jnp.int32)


def keep_top_k(logits: Logits, count: int) -> Logits:
    """Returns logits with -inf for all but the `count` greatest, and those equal to the last."""
    least = jax.lax.top_k(logits, count)[0][..., -1:]
    return jnp.where(logits < least, -jnp.inf, logits)


def keep_top_p(logits: Logits, probability: float) -> Logits:
    """Returns logits with -inf outside the smallest set of at least this probability.

    Args:
      logits: of the next token.
      probability: in (0, 1).

    Note:
      Tokens of equal probability stay or go together; Hugging Face keeps some of them.
    """
    descending = -jnp.sort(-logits, axis=-1)
    probabilities = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # The first is always in: nothing is before it.
    least = jnp.min(jnp.where(before < probability, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < least, -jnp.inf, logits)
