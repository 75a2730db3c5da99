"""Greedy decoding and sampling, and what is true of every way to decode."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decode import toys
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxvision.decode.beam import beam_search
from jaxvision.decode.generate import generate
from jaxvision.decode.settings import DecodeSettings
from jaxvision.errors import InputError

WAYS = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 2, "top_k": 4},
    "beam": {"num_beams": 3, "num_return_sequences": 2},
    "everything": {
        "num_beams": 4,
        "num_beam_groups": 2,
        "diversity_penalty": 0.5,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
        "min_length": 4,
        "suppress_tokens": (3,),
        "length_normalization": "gnmt",
        "early_stopping": "never",
    },
}


def decode(memory, *, model=None, key=0, image_ids=None, **settings):
    settings = DecodeSettings(**({"max_length": 10} | settings))
    run = toys.compiled(model or toys.MARKOV, settings)
    return jax.tree.map(np.asarray, run(memory, jax.random.key(key), image_ids))


@pytest.fixture(scope="module")
def table():
    return toys.tables(0, batch=6, end=1.0)


def test_greedy_takes_the_most_likely(table):
    decoded = decode(table)
    for image in range(len(table)):
        log_probs = toys.markov_log_probs(table[image])
        row, total = [toys.START], 0.0
        while len(row) < 10 and row[-1] != toys.END:
            following = log_probs(row)
            row.append(int(following.argmax()))
            total += following.max()
        toys.assert_same(toys.rows(decoded, image), [(total / (len(row) - 1), row)])


@jax.jit
def greedy_beam(memory):
    settings = DecodeSettings(max_length=10, length_penalty=0.0)
    return beam_search(toys.MARKOV, memory, settings)


@pytest.mark.parametrize("seed", range(5))
def test_one_beam_is_greedy_is_the_top_1_of_sampling(seed):
    table = toys.tables(seed, batch=16, end=1.0)
    greedy = decode(table, length_penalty=0.0)
    top_1 = decode(table, length_penalty=0.0, do_sample=True, top_k=1)
    beam = greedy_beam(table)
    for other in (top_1, beam):
        np.testing.assert_array_equal(greedy.tokens, other.tokens)
        np.testing.assert_array_equal(greedy.lengths, other.lengths)
        np.testing.assert_allclose(greedy.scores, other.scores, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_rows_are_as_a_batch_has_them(table, way):
    decoded = decode(table, pad=9, **WAYS[way])
    count = WAYS[way].get("num_return_sequences", 1)
    assert decoded.tokens.shape == (6, count, 10) and decoded.tokens.dtype == np.int32
    for tokens, length in zip(
        decoded.tokens.reshape(-1, 10).tolist(), decoded.lengths.ravel(), strict=True
    ):
        row, rest = tokens[:length], tokens[length:]
        assert row[0] == toys.START and toys.END not in row[:-1]
        assert length == 10 or row[-1] == toys.END
        assert rest == [9] * len(rest)
    assert (np.diff(decoded.scores, axis=1) <= 0).all() or way == "sampling"


@pytest.mark.parametrize("way", WAYS)
def test_an_image_does_not_depend_on_its_batch(table, way):
    ids = np.array([10, 20, 30, 40, 50, 60])
    together = decode(table, image_ids=ids, **WAYS[way])
    order = [4, 1]
    apart = decode(table[order], image_ids=ids[order], **WAYS[way])
    for whole, part in zip(together, apart, strict=True):
        np.testing.assert_array_equal(whole[order], part)


@pytest.mark.parametrize("way", WAYS)
def test_the_cache_equals_no_cache(way):
    """Scores of the sequences by a model that computes everything anew."""
    model = toys.TinyAttention(0)
    memory = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    plain = {
        name: value
        for name, value in WAYS[way].items()
        if name not in ("diversity_penalty", "num_beam_groups", "repetition_penalty")
    }
    decoded = decode(memory, model=model, length_penalty=0.0, **plain)
    for image in range(3):
        log_probs = model.log_probs(memory[image])
        for score, row in toys.rows(decoded, image):
            expected = sum(log_probs(row[:i])[row[i]] for i in range(1, len(row)))
            np.testing.assert_allclose(score, expected, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_batches_do_not_trace_again(table, way):
    settings = DecodeSettings(max_length=10, **WAYS[way])
    chex.clear_trace_counter()
    run = jax.jit(
        chex.assert_max_traces(
            lambda memory, key: generate(toys.Markov(), memory, settings, key=key), n=1
        )
    )
    for seed in range(3):
        run(table + seed, jax.random.key(seed))


@pytest.mark.parametrize("way", ["greedy", "sampling", "beam"])
def test_it_stops_when_all_are_done(way):
    """Counts the steps by a value in the cache that each one adds to."""
    steps = []

    class Counting(toys.Markov):
        def step(self, cache, tokens, position, ancestry):
            jax.debug.callback(lambda position: steps.append(int(position)), position)
            return super().step(cache, tokens, position, ancestry)

    table = toys.tables(0, batch=3)
    table[..., toys.END] = -30.0
    table[:2, :, :, toys.END] = 30.0  # these two end at once
    # The third ends behind its second word.
    table[2, :, 5] = 30.0 * (np.arange(12) == toys.END)
    table[2, :, toys.START] = 30.0 * (np.arange(12) == 5)
    options = WAYS[way] | {"early_stopping": True, "max_length": 50}
    if way == "beam":
        table = table[:2]
    decode(table, model=Counting(), **options)
    jax.effects_barrier()
    if way == "beam":  # three rows must finish, and the later ones begin with another word
        assert max(steps) < 4
    else:
        assert max(steps) == 1


def test_samples_follow_the_model():
    """Words of one step, over many samples, against the probabilities of the table."""
    table = toys.tables(3, batch=1, vocabulary=6, scale=1.0)
    count = 4000
    decoded = decode(table, do_sample=True, num_return_sequences=count, max_length=2)
    share = np.bincount(decoded.tokens[0, :, 1], minlength=6) / count
    log_probs = toys.markov_log_probs(table[0])([toys.START])
    np.testing.assert_allclose(share, np.exp(log_probs), atol=0.03)
    np.testing.assert_allclose(decoded.scores[0], log_probs[decoded.tokens[0, :, 1]], rtol=1e-4)


def test_samples_differ_by_key_image_and_number(table):
    same = np.repeat(table[:1], 4, axis=0)
    options = {"do_sample": True, "num_return_sequences": 3, "max_length": 12}
    first = decode(same, **options)
    np.testing.assert_array_equal(first.tokens, decode(same, **options).tokens)
    assert (first.tokens != decode(same, key=1, **options).tokens).any()
    assert len({tuple(row) for row in first.tokens.reshape(-1, 12)}) > 6
    one_id = decode(same, image_ids=np.array([5, 5, 5, 6]), **options)
    np.testing.assert_array_equal(one_id.tokens[0], one_id.tokens[1])
    assert (one_id.tokens[0] != one_id.tokens[3]).any()


def test_the_first_samples_are_those_of_fewer(table):
    options = {"do_sample": True, "max_length": 12}
    many = decode(table, num_return_sequences=5, **options)
    few = decode(table, num_return_sequences=2, **options)
    np.testing.assert_array_equal(many.tokens[:, :2], few.tokens)


def test_rules_hold_for_samples(table):
    decoded = decode(
        table,
        do_sample=True,
        num_return_sequences=20,
        min_length=6,
        no_repeat_ngram_size=1,
        suppress_tokens=(0, 1, 3),
    )
    for image in range(len(table)):
        for _, row in toys.rows(decoded, image):
            assert len(row) > 6 and len(set(row)) == len(row) and not {0, 3} & set(row)


@pytest.mark.parametrize("way", WAYS)
def test_split_over_devices(way):
    table = toys.tables(0, batch=8, end=1.0)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split = jax.device_put(table, NamedSharding(mesh, PartitionSpec("data")))
    for whole, parts in zip(decode(table, **WAYS[way]), decode(split, **WAYS[way]), strict=True):
        np.testing.assert_allclose(whole, parts, rtol=1e-6)


def test_bad_calls_are_one_sentence(table):
    with pytest.raises(InputError, match="pass key=jax.random.key"):
        generate(toys.Markov(), jnp.asarray(table), DecodeSettings(max_length=5, do_sample=True))
    for beams in (1, 2):
        with pytest.raises(InputError, match="The model knows the tokens 0 to 11"):
            decode(table, end=12, num_beams=beams)
