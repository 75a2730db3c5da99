"""Beam search against plain Python, against all sequences, and against the source text's bugs."""

import itertools
import random

import jax
import numpy as np
import pytest
from decode import toys

from jaxvision.decode.settings import DecodeSettings

NORMALIZATIONS = [("power", 0.0), ("power", 1.0), ("power", -1.0), ("gnmt", 0.6), ("gnmt", 2.0)]


def decode(memory, settings, model=None):
    return jax.tree.map(np.asarray, toys.compiled(model or toys.MARKOV, settings)(memory))


@pytest.mark.parametrize(("normalization", "penalty"), NORMALIZATIONS)
def test_wide_enough_it_finds_the_best_of_all_sequences(normalization, penalty):
    table = toys.tables(1, batch=3, vocabulary=6, scale=1.5, end=1.0)
    settings = DecodeSettings(
        max_length=5,
        num_beams=6**3,
        num_return_sequences=20,
        length_penalty=penalty,
        length_normalization=normalization,
        early_stopping="never",
    )
    decoded = decode(table, settings)
    norms = settings.norms()
    for image in range(3):
        log_probs = toys.markov_log_probs(table[image])
        every = [
            (score / norms[len(row) - 1], row)
            for score, row in toys.everything(log_probs, vocabulary=6, max_length=5)
        ]
        assert len(every) == 1 + 5 + 5**2 + 5**3 + 5**4
        best = sorted(every, key=lambda option: -option[0])[:20]
        toys.assert_same(toys.rows(decoded, image), best)


GRID = [
    dict(zip(("beams", "norm", "stop", "groups"), values, strict=True))
    for values in itertools.product(
        (1, 2, 4), NORMALIZATIONS, (False, True, "never"), ((1, 0.0), (2, 0.8))
    )
]
SEARCHES = random.Random(0).sample(GRID, 28)


@pytest.mark.parametrize(
    "number", [0, *(pytest.param(i, marks=pytest.mark.repeats) for i in (1, 2, 3))]
)
def test_equals_a_search_in_plain_python(number):
    for seed, options in enumerate(SEARCHES):
        if seed % 4 != number:
            continue
        groups, penalty = options["groups"]
        settings = DecodeSettings(
            max_length=9,
            num_beams=2 * options["beams"],
            num_return_sequences=2 * options["beams"],
            length_normalization=options["norm"][0],
            length_penalty=options["norm"][1],
            early_stopping=options["stop"],
            num_beam_groups=groups,
            diversity_penalty=penalty,
        )
        table = toys.tables(seed, batch=5, vocabulary=17, end=1.5)
        decoded = decode(table, settings)
        for image in range(5):
            expected = toys.search(toys.markov_log_probs(table[image]), settings)
            toys.assert_same(toys.rows(decoded, image), expected)


@pytest.mark.parametrize("groups", [1, 3])
def test_rows_keep_their_past_in_a_cache_that_is_never_reordered(groups):
    model = toys.TinyAttention(0)
    memory = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    settings = DecodeSettings(
        max_length=10,
        num_beams=6,
        num_return_sequences=6,
        num_beam_groups=groups,
        diversity_penalty=0.3 * (groups - 1),
    )
    decoded = decode(memory, settings, model)
    for image in range(2):
        expected = toys.search(model.log_probs(memory[image]), settings)
        toys.assert_same(toys.rows(decoded, image), expected, tolerance=1e-4)


def test_a_small_vocabulary_has_fewer_captions_than_beams():
    """What is no hypothesis never comes out as one."""
    table = toys.tables(2, batch=2, vocabulary=3)
    settings = DecodeSettings(
        max_length=3, num_beams=12, num_return_sequences=12, early_stopping="never"
    )
    decoded = decode(table, settings)
    for image in range(2):
        log_probs = toys.markov_log_probs(table[image])
        every = [
            (score / (len(row) - 1), row)
            for score, row in toys.everything(log_probs, vocabulary=3, max_length=3)
        ]
        best = sorted(every, key=lambda option: -option[0])
        rows = toys.rows(decoded, image)
        toys.assert_same(rows[: len(best)], best)
        assert len(best) == 7
        assert all(score == -np.inf for score, _ in rows[len(best) :])


# The source text's beam search (SPEC E000-4, E000-5): it encoded the memory twice, decoded one
# image at a time, and compared raw sums.


def test_the_memory_is_looked_at_once():
    calls = []

    class Counting(toys.Markov):
        def start(self, memory, **options):
            calls.append(memory.shape)
            return super().start(memory, **options)

    settings = DecodeSettings(max_length=6, num_beams=3)
    decode(toys.tables(0, batch=5), settings, Counting())
    assert calls == [(5, 12, 12, 12)]


@pytest.mark.parametrize("beams", [1, 216])
def test_without_normalisation_it_is_the_source_texts(beams):
    table = toys.tables(4, batch=4, vocabulary=6, end=1.0)
    settings = DecodeSettings(
        max_length=5, num_beams=max(beams, 2), length_penalty=0.0, early_stopping="never"
    )
    if beams == 1:
        settings = DecodeSettings(max_length=5, length_penalty=0.0)
    decoded = decode(table, settings)
    for image in range(4):
        log_probs = toys.markov_log_probs(table[image])
        expected = toys.beam_of_the_text(log_probs, beams=beams, max_length=5)
        toys.assert_same(toys.rows(decoded, image), [expected])


def test_finished_beams_leave_their_place_to_running_ones():
    """In the text each finished beam narrows the search, so it misses better captions."""
    better = 0
    for seed in range(10):
        table = toys.tables(seed, batch=4, end=2.0)
        settings = DecodeSettings(
            max_length=10, num_beams=3, length_penalty=0.0, early_stopping="never"
        )
        decoded = decode(table, settings)
        for image in range(4):
            log_probs = toys.markov_log_probs(table[image])
            theirs, _ = toys.beam_of_the_text(log_probs, beams=3, max_length=10)
            assert decoded.scores[image, 0] > theirs - 1e-4
            better += decoded.scores[image, 0] > theirs + 1e-4
    assert better > 0


@pytest.mark.parametrize("normalization", ["power", "gnmt"])
def test_a_greater_length_penalty_never_shortens_captions(normalization):
    table = toys.tables(5, batch=64, end=2.5)
    lengths = []
    for penalty in (0.0, 0.5, 1.0, 2.0):
        settings = DecodeSettings(
            max_length=12,
            num_beams=4,
            length_penalty=penalty,
            length_normalization=normalization,
            early_stopping="never",
        )
        lengths.append(decode(table, settings).lengths.mean())
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0] + 1


def test_scores_are_the_normalised_log_probabilities_of_the_tokens():
    table = toys.tables(6, batch=4, end=1.0)
    settings = DecodeSettings(
        max_length=10, num_beams=4, num_return_sequences=4, length_normalization="gnmt"
    )
    decoded = decode(table, settings)
    for image in range(4):
        log_probs = toys.markov_log_probs(table[image])
        for score, row in toys.rows(decoded, image):
            total = sum(log_probs(row[:i])[row[i]] for i in range(1, len(row)))
            np.testing.assert_allclose(score, total / ((5 + len(row) - 1) / 6), rtol=1e-5)


# Diverse beams


def test_the_first_group_is_a_plain_search_of_its_size():
    table = toys.tables(7, batch=8, end=1.0)
    diverse = DecodeSettings(
        max_length=10,
        num_beams=6,
        num_return_sequences=6,
        num_beam_groups=2,
        diversity_penalty=5.0,
    )
    plain = DecodeSettings(max_length=10, num_beams=3, num_return_sequences=3)
    found, expected = decode(table, diverse), decode(table, plain)
    for image in range(8):
        rows = toys.rows(found, image)
        for row in toys.rows(expected, image):
            assert min(abs(row[0] - score) for score, tokens in rows if tokens == row[1]) < 1e-5


def test_a_greater_diversity_penalty_gives_more_different_captions():
    table = toys.tables(8, batch=32, end=0.0)
    distinct = []
    for penalty in (1e-6, 0.5, 2.0, 10.0):
        settings = DecodeSettings(
            max_length=10,
            num_beams=4,
            num_return_sequences=4,
            num_beam_groups=4,
            diversity_penalty=penalty,
        )
        tokens = decode(table, settings).tokens
        distinct.append(np.mean([len(np.unique(column)) for image in tokens for column in image.T]))
    assert distinct == sorted(distinct)
    assert distinct[-1] > distinct[0] + 0.5
