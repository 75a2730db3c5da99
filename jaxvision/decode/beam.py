"""Beam search of a whole batch in one loop, by the rules of Hugging Face."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from jaxvision.decode.decoder import Decoded, Decoder, batch_size
from jaxvision.decode.processors import process
from jaxvision.decode.settings import DecodeSettings
from jaxvision.decode.top_k import few_top_k, top_k


class _Running(NamedTuple):
    """The hypotheses that continue: R rows for each of the searches (images times groups)."""

    tokens: Int32[Array, "searches rows length"]
    origin: Int32[Array, "searches rows length"]  # which row of the image wrote each token
    scores: Float[Array, "searches rows"]  # sums of log-probabilities, descending


class _Finished(NamedTuple):
    """The best finished hypotheses of each search, as many as it has rows."""

    tokens: Int32[Array, "searches rows length"]
    scores: Float[Array, "searches rows"]  # over the norm of their length, descending
    lengths: Int32[Array, "searches rows"]


class _State(NamedTuple):
    """What the loop carries."""

    position: Int32[Array, ""]  # of the newest token
    running: _Running
    finished: _Finished
    open: Bool[Array, " searches"]  # whether the finished ones may still change
    cache: Any


class _Candidates(NamedTuple):
    """One more token for the running rows: the 2 R best of each search, descending."""

    scores: Float[Array, "searches candidates"]
    parents: Int32[Array, "searches candidates"]  # the rows they go on from
    tokens: Int32[Array, "searches candidates"]


def beam_search(model: Decoder, memory: Any, settings: DecodeSettings) -> Decoded:
    """Returns the best `num_return_sequences` of the captions that a beam search finds.

    A step scores every continuation of every row. The best `num_beams` of them that end go to the
    finished ones, which are compared by their normalised scores only; the best `num_beams` that do
    not end run on. So finishing never costs a row, and a finished caption waits outside of the
    running ones. What an image gets does not depend on its batch.

    Args:
      model: Decoder that gives logits, one token after the other.
      memory: Pytree of arrays [B, ...], one entry for each image.
      settings: Settings of the search; static.

    Raises:
      InputError: if a special token lies outside the model's vocabulary.

    Note:
      A search's greatest length ends all its running hypotheses as they are.
    """
    batch, beams, length = batch_size(memory), settings.num_beams, settings.max_length
    groups = settings.num_beam_groups
    rows = beams // groups

    def step(state: _State) -> _State:
        position, running = state.position, state.running
        origin = running.origin.reshape(batch, beams, length)
        past = jnp.arange(length) <= position
        logits, cache = model.step(
            state.cache,
            running.tokens[..., position].reshape(batch, beams),
            position,
            (origin[..., None] == jnp.arange(beams)[None, None, None]) & past[None, None, :, None],
        )
        settings.check_vocabulary(logits.shape[-1])
        logits = logits.reshape(batch * groups, rows, -1)
        candidates, order = _candidates(state, logits, settings)
        finished = _finish(state, candidates, settings)
        running = _advance(state, candidates, order, settings)
        return _State(
            position=position + 1,
            running=running,
            finished=finished,
            open=state.open & _may_improve(running, finished, position + 1, settings),
            cache=cache,
        )

    def goes_on(state: _State) -> jax.Array:
        return (state.position < length - 1) & jnp.any(state.open)

    cache = model.start(memory, num_beams=beams, max_length=length)
    state = _start(cache, batch, settings)
    finished = jax.lax.while_loop(goes_on, step, state).finished
    # The groups of an image side by side; without groups they are in order already.
    tokens, scores, lengths = (x.reshape(batch, beams, *x.shape[2:]) for x in finished)
    scores, best = few_top_k(scores, settings.num_return_sequences)
    return Decoded(_take(tokens, best), scores, _take(lengths, best))


def _start(cache: Any, batch: int, settings: DecodeSettings) -> _State:
    """Returns the state in which every row is <START>."""
    groups, length = settings.num_beam_groups, settings.max_length
    rows = settings.num_beams // groups
    searches = batch * groups
    tokens = jnp.full((searches, rows, length), settings.pad, jnp.int32)
    tokens = tokens.at[..., 0].set(settings.start)
    own = jnp.arange(settings.num_beams, dtype=jnp.int32).reshape(groups, rows)
    nothing = jnp.full((searches, rows), -jnp.inf)  # the score of no hypothesis at all
    return _State(
        position=jnp.zeros((), jnp.int32),
        running=_Running(
            tokens,
            jnp.tile(own[:, :, None], (batch, 1, length)),
            nothing.at[:, 0].set(0.0),  # all rows are alike, so only one may go on
        ),
        finished=_Finished(tokens, nothing, jnp.ones((searches, rows), jnp.int32)),
        open=jnp.ones(searches, bool),
        cache=cache,
    )


def _candidates(
    state: _State, logits: Float[Array, "searches rows vocabulary"], settings: DecodeSettings
) -> tuple[_Candidates, Int32[Array, "searches rows"]]:
    """Returns the best continuations of each search, and which of them run on, best first.

    A group is held off the tokens with which the earlier groups of its image run on.
    """
    groups = settings.num_beam_groups
    searches, rows, vocabulary = logits.shape
    offsets = state.running.scores - jax.nn.logsumexp(logits, axis=-1)
    if settings.repetition_penalty != 1.0:  # the one rule that is not the same for logits
        logits, offsets = jax.nn.log_softmax(logits, axis=-1), state.running.scores
    scores = process(logits, state.running.tokens, state.position + 1, settings=settings)

    def of_group(values: jax.Array, group: int) -> jax.Array:
        return values.reshape(-1, groups, *values.shape[1:])[:, group]

    used = jnp.zeros((searches // groups, 1, vocabulary), scores.dtype)  # by how many rows
    found, orders = [], []
    for group in range(groups):
        penalized = of_group(scores, group)
        if group > 0:
            penalized = penalized - settings.diversity_penalty * used
        # Twice as many as rows: each row ends in one way, so at least half of them do not end.
        best, where = top_k(penalized, of_group(offsets, group), 2 * rows)
        candidates = _Candidates(best, where // vocabulary, where % vocabulary)
        order = few_top_k(jnp.where(candidates.tokens == settings.end, -jnp.inf, best), rows)[1]
        if group < groups - 1:
            chosen = jax.nn.one_hot(_take(candidates.tokens, order), vocabulary, dtype=used.dtype)
            chosen = jnp.sum(chosen, axis=1, keepdims=True)
            used += jnp.where(of_group(state.open, group)[:, None, None], chosen, 0.0)
        found.append(candidates)
        orders.append(order)

    def merge(*parts: jax.Array) -> jax.Array:
        return jnp.stack(parts, axis=1).reshape(searches, -1)

    return jax.tree.map(merge, *found), merge(*orders)


def _finish(state: _State, candidates: _Candidates, settings: DecodeSettings) -> _Finished:
    """Returns the best of the finished hypotheses and of the candidates that end now.

    Only the better half of the candidates may: the others are there to run on.
    """
    rows = state.running.scores.shape[1]
    scores, parents, tokens = (x[:, :rows] for x in candidates)
    length = state.position + 1  # tokens after <START>
    ends = (tokens == settings.end) | (length == settings.max_length - 1)
    ends &= state.open[:, None]
    new = _Finished(
        _append(state.running.tokens, parents, tokens, state.position),
        jnp.where(ends, scores / _norms(settings, scores)[length], -jnp.inf),
        jnp.full(parents.shape, length + 1),
    )
    merged = _Finished(*(jnp.concatenate(x, axis=1) for x in zip(state.finished, new, strict=True)))
    scores, best = few_top_k(merged.scores, rows)
    return _Finished(_take(merged.tokens, best), scores, _take(merged.lengths, best))


def _advance(
    state: _State,
    candidates: _Candidates,
    order: Int32[Array, "searches rows"],
    settings: DecodeSettings,
) -> _Running:
    """Returns the rows that run on."""
    scores, parents, tokens = (_take(x, order) for x in candidates)
    running = state.running
    own = running.origin[..., state.position]  # the newest token of a row is always its own
    return _Running(
        tokens=_append(running.tokens, parents, tokens, state.position),
        origin=_append(running.origin, parents, own, state.position),
        scores=jnp.where(tokens == settings.end, -jnp.inf, scores),
    )


def _may_improve(
    running: _Running, finished: _Finished, length: jax.Array, settings: DecodeSettings
) -> Bool[Array, " searches"]:
    """Returns whether a search should continue, for running rows of `length` tokens after <START>.

    It always should while it has fewer finished hypotheses than rows: the score of a missing one
    is -inf.
    """
    worst = finished.scores[:, -1]
    longest = settings.early_stopping == "never" and settings.length_penalty > 0.0
    norm = _norms(settings, worst)[settings.max_length - 1 if longest else length]
    improves = running.scores[:, 0] / norm > worst
    if settings.early_stopping is True:
        improves &= jnp.isneginf(worst)
    return improves


def _append(
    rows: Int32[Array, "searches rows length"],
    parents: Int32[Array, "searches new"],
    entries: Int32[Array, "searches new"],
    position: Int32[Array, ""],
) -> Int32[Array, "searches new length"]:
    """Returns the parents' rows with an entry more behind `position`."""
    return _take(rows, parents).at[..., position + 1].set(entries)


def _take(values: jax.Array, indices: Int32[Array, "searches new"]) -> jax.Array:
    """Returns the values [searches, old, ...] at the indices along the second axis."""
    return jnp.take_along_axis(
        values, indices.reshape(*indices.shape, *(1,) * (values.ndim - 2)), 1
    )


def _norms(settings: DecodeSettings, scores: jax.Array) -> jax.Array:
    return jnp.asarray(settings.norms(), scores.dtype)
