from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvision.explain.attention import weights_gradient
from jaxvision.layers.tap import capture_gradients


def word_gradients(
    model: nnx.Module,
    inputs: Float[Array, "batch *space channels"],
    tokens: Int[Array, "batch length"],
) -> Float[Array, "batch words sources"]:
    """Returns how much each part of the image speaks for each word of a caption.

    It is the mean over layers and heads of the cross-attention of the position that says the word,
    times the gradient of the word's log-probability there, without what is negative.

    Args:
      model: Captioner, in evaluation.
      inputs: Normalised images, or features.
      tokens: Tokens of the caption, from `<START>` on; the words are those behind it.

    Source: Chefer et al. 2021, Generic Attention-model Explainability, eq. 5.
    """
    return _word_gradients(model, inputs, tokens)


@jax.jit
def _word_gradients(model: Any, inputs: jax.Array, tokens: jax.Array) -> jax.Array:
    memory = model.encode(inputs)
    said, words = tokens[:, :-1], tokens[:, 1:]

    def maps_of(position: jax.Array) -> jax.Array:
        def objective(logits: jax.Array) -> jax.Array:
            chances = jax.nn.log_softmax(logits, axis=-1)
            chosen = jnp.take_along_axis(chances, words[..., None], axis=-1)[..., 0]
            return chosen[:, position].sum()

        _, found, gradients = capture_gradients(
            lambda: model.decode_tokens(memory, said), objective, "attention"
        )
        rows = []
        for each, gradient in zip(found, gradients, strict=True):
            if dict(each.facts).get("looks_at") == "memory":
                relevant = each.beside["weights"] * weights_gradient(each, gradient)
                rows.append(jnp.maximum(relevant[:, :, position], 0.0).mean(axis=1))
        return jnp.stack(rows).mean(axis=0)

    return jax.lax.map(maps_of, jnp.arange(words.shape[1])).swapaxes(0, 1)
