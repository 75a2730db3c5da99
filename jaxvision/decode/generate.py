"""Captions from a memory: the one entry, and the loop of greedy decoding and sampling."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32, PRNGKeyArray

from jaxvision.decode.beam import beam_search
from jaxvision.decode.decoder import Decoded, Decoder, batch_size
from jaxvision.decode.processors import process
from jaxvision.decode.sampling import sample, sample_keys
from jaxvision.decode.settings import DecodeSettings
from jaxvision.decode.top_k import argmax
from jaxvision.errors import InputError


def generate(
    model: Decoder,
    memory: Any,
    settings: DecodeSettings,
    *,
    key: PRNGKeyArray | None = None,
    image_ids: Int[Array, " batch"] | None = None,
) -> Decoded:
    """Returns the captions of a batch of images.

    Call it inside `jax.jit`: the settings are static, the loop is one `while_loop` that stops when
    every row is done, and other images of the same shape do not trace it again.

    Args:
      model: Decoder that gives logits, one token after the other.
      memory: Pytree of arrays [B, ...], one entry for each image: the model's `encode`.
      settings: Settings of decoding: beam search where `num_beams` > 1, sampling where `do_sample`,
        else greedy.
      key: Key for the randomness of sampling.
      image_ids: Ids of the images: what an image's samples depend on, together with the key and not
        with its companions in the batch; None: its place in the batch.

    Raises:
      InputError: if `key` is missing where tokens are drawn, or a special token lies outside the
        model's vocabulary.
    """
    if settings.num_beams > 1:
        return beam_search(model, memory, settings)
    if not settings.do_sample:
        return _one_by_one(model, memory, settings, lambda logits, _: argmax(logits))
    if key is None:
        raise InputError("do_sample=True draws tokens: pass key=jax.random.key(seed).")
    if image_ids is None:
        image_ids = jnp.arange(batch_size(memory))
    keys = sample_keys(key, image_ids, settings.num_return_sequences)

    def draw(logits: jax.Array, position: jax.Array) -> jax.Array:
        step_keys = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))(keys, position)
        return sample(step_keys, logits, settings=settings)

    return _one_by_one(model, memory, settings, draw)


class _State(NamedTuple):
    """What the loop carries; K rows of each image, which have nothing to do with each other."""

    position: Int32[Array, ""]  # of the newest token
    tokens: Int32[Array, "batch rows length"]
    log_probs: Float[Array, "batch rows"]  # their sum
    lengths: Int32[Array, "batch rows"]
    done: Bool[Array, "batch rows"]
    cache: Any


def _one_by_one(
    model: Decoder,
    memory: Any,
    settings: DecodeSettings,
    choose: Callable[[jax.Array, jax.Array], jax.Array],
) -> Decoded:
    """Returns captions whose every token `choose(logits [B, K, V], position)` chose."""
    rows, length = settings.num_return_sequences, settings.max_length
    shape = (batch_size(memory), rows)
    own = jnp.eye(rows, dtype=bool)[:, None]  # a row's ancestor is itself, [K, 1, K]

    def step(state: _State) -> _State:
        position = state.position
        ancestry = own & (jnp.arange(length) <= position)[None, :, None]
        logits, cache = model.step(
            state.cache,
            state.tokens[..., position],
            position,
            jnp.broadcast_to(ancestry, (*shape, length, rows)),
        )
        settings.check_vocabulary(logits.shape[-1])
        processed = process(logits, state.tokens, position + 1, settings=settings)
        chosen = jnp.where(state.done, settings.pad, choose(processed, position))
        log_prob = jnp.take_along_axis(logits, chosen[..., None], axis=-1)[..., 0]
        log_prob -= jax.nn.logsumexp(logits, axis=-1)
        return _State(
            position=position + 1,
            tokens=state.tokens.at[..., position + 1].set(chosen),
            log_probs=state.log_probs + jnp.where(state.done, 0.0, log_prob),
            lengths=state.lengths + ~state.done,
            done=state.done | (chosen == settings.end),
            cache=cache,
        )

    def goes_on(state: _State) -> jax.Array:
        return (state.position < length - 1) & ~jnp.all(state.done)

    tokens = jnp.full((*shape, length), settings.pad, jnp.int32).at[..., 0].set(settings.start)
    state = _State(
        position=jnp.zeros((), jnp.int32),
        tokens=tokens,
        log_probs=jnp.zeros(shape),
        lengths=jnp.ones(shape, jnp.int32),
        done=jnp.zeros(shape, bool),
        cache=model.start(memory, num_beams=rows, max_length=length),
    )
    state = jax.lax.while_loop(goes_on, step, state)
    norms = jnp.asarray(settings.norms(), state.log_probs.dtype)
    return Decoded(state.tokens, state.log_probs / norms[state.lengths - 1], state.lengths)
