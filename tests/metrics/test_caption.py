"""BLEU, ROUGE-L and CIDEr-D: known values, properties, and equality with pycocoevalcap."""

import numpy as np
import pytest

from jaxvision.errors import InputError
from jaxvision.metrics.caption import score_captions, score_each_caption
from jaxvision.metrics.cider import Cider, compute_cider, document_frequency
from jaxvision.metrics.ngram import NgramIndex

REFERENCES = [
    [
        "a man riding a horse on the beach",
        "a person rides a brown horse near the ocean",
        "man on a horse at the beach",
    ],
    [
        "two dogs play in the snow",
        "a pair of dogs playing in snow",
        "two brown dogs are running through the snow",
    ],
    [
        "a red bus driving down the street",
        "a bus is parked on the side of the road",
        "a red city bus on the street",
    ],
]
CANDIDATES = ["a man riding a horse on the beach", "two dogs in the grass", "a bus on a street"]
NAMES = ("bleu1", "bleu2", "bleu3", "bleu4", "cider", "rouge_l")
NGRAM_METRICS = ("bleu", "rouge_l", "cider")


def random_corpus(seed, *, images=7, words=9, longest=11):
    """Returns tokenized references and candidates of few words, so that they overlap a lot."""
    rng = np.random.default_rng(seed)

    def caption(shortest):
        return " ".join(f"w{i}" for i in rng.integers(words, size=rng.integers(shortest, longest)))

    references = [[caption(1) for _ in range(rng.integers(1, 6))] for _ in range(images)]
    return references, [caption(0) for _ in range(images)]


@pytest.mark.parametrize(
    ("number", "corpus", "cider", "rouge"),
    [
        (
            3,
            [0.752428, 0.683427, 0.582538, 0.552178, 2.49822, 0.787586],
            [4.405673, 1.563557, 1.525431],
            [1.0, 0.715543, 0.647215],
        ),
        (
            1,
            [0.705401, 0.598553, 0.53325, 0.516755, 4.64683, 0.733651],
            [10.0, 2.756533, 1.183959],
            [1.0, 0.715543, 0.485411],
        ),
    ],
)
def test_published_values(number, corpus, cider, rouge):
    scores = score_each_caption(
        [captions[:number] for captions in REFERENCES], CANDIDATES, NGRAM_METRICS
    )
    np.testing.assert_allclose([scores.corpus[name] for name in NAMES], corpus, atol=6e-6)
    np.testing.assert_allclose(scores.each["cider"], cider, atol=6e-7)
    np.testing.assert_allclose(scores.each["rouge_l"], rouge, atol=6e-7)


@pytest.mark.parametrize("seed", range(20))
def test_equals_pycocoevalcap(seed):
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    references, candidates = random_corpus(seed, words=3 + seed)
    wanted = dict(enumerate(references)), {i: [text] for i, text in enumerate(candidates)}
    scores = score_each_caption(references, candidates, NGRAM_METRICS, tokenize=False)
    corpus, each = bleu.Bleu(4).compute_score(*wanted, verbose=0)
    peers = {f"bleu{n + 1}": (corpus[n], each[n]) for n in range(4)}
    peers["cider"] = cider.Cider().compute_score(*wanted)
    peers["rouge_l"] = rouge.Rouge().compute_score(*wanted)
    assert set(scores.corpus) == set(scores.each) == set(peers)
    for name, (total, values) in peers.items():
        assert scores.corpus[name] == pytest.approx(total, abs=1e-9), name
        np.testing.assert_allclose(scores.each[name], values, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("seed", range(6))
def test_corpus_frequencies_equal_pycocoevalcap(seed):
    peer = pytest.importorskip("pycocoevalcap.cider.cider_scorer")
    references, candidates = random_corpus(seed, images=5)
    corpus, _ = random_corpus(seed + 100, images=30, words=12)
    frequency = document_frequency(corpus)
    scorer = peer.CiderScorer()
    for text, captions in zip(candidates, references, strict=True):
        scorer += (text, captions)
    scorer.document_frequency.update(frequency.counts)

    class Log:  # the peer knows no other corpus: it takes the logarithm of its own images
        def __len__(self):
            return frequency.images

        def __iter__(self):
            return iter(references_counts)

    references_counts = scorer.crefs
    scorer.crefs = Log()
    wanted = scorer.compute_cider()
    ours = Cider(references, frequency=frequency).score(candidates)
    np.testing.assert_allclose(ours, wanted, atol=1e-9)
    single = [
        compute_cider(text, captions, frequency)
        for text, captions in zip(candidates, references, strict=True)
    ]
    np.testing.assert_allclose(single, wanted, atol=1e-9)


def test_own_frequencies_are_the_default():
    references, candidates = random_corpus(3)
    given = Cider(references, frequency=document_frequency(references)).score(candidates)
    np.testing.assert_allclose(Cider(references).score(candidates), given, rtol=1e-12)


def test_many_candidates_of_an_image():
    references, candidates = random_corpus(5)
    scorer = Cider(references)
    images = [4, 0, 4, 2, 4]
    each = [scorer.score([candidates[k]], [i])[0] for k, i in enumerate(images)]
    np.testing.assert_allclose(scorer.score(candidates[:5], images), each, rtol=1e-12)
    np.testing.assert_array_equal(scorer.score(candidates[:5], np.array(images)), each)
    assert scorer.score([], []).shape == (0,)


def test_shorter_ngrams():
    peer = pytest.importorskip("pycocoevalcap.cider.cider_scorer")
    references, candidates = random_corpus(8)
    for n in (1, 2, 3):
        scorer = peer.CiderScorer(n=n)
        for text, captions in zip(candidates, references, strict=True):
            scorer.ctest.append(peer.cook_test(text, n))
            scorer.crefs.append(peer.cook_refs(captions, n))
        _, wanted = scorer.compute_score()
        np.testing.assert_allclose(Cider(references, n=n).score(candidates), wanted, atol=1e-9)


def test_a_repeated_unknown_ngram_weighs_more():
    scorer = Cider(REFERENCES)
    once, twice = scorer.score(["two dogs zebra quagga", "two dogs zebra zebra"], [1, 1])
    assert 0 < twice < once


def test_one_image():
    scores = score_captions([["a dog runs on grass"]], ["a dog runs on grass"], NGRAM_METRICS)
    assert scores["cider"] == 0.0
    assert scores["rouge_l"] == pytest.approx(1) and scores["bleu4"] == pytest.approx(1, abs=1e-8)


def test_text_is_tokenized_unless_told_otherwise():
    raw = [["A man's dog, running.", "The dog"], ["Two cats!"]]
    tokens = [["a man 's dog running", "the dog"], ["two cats"]]
    candidates = ["a man's DOG", "two (2) cats"]
    expected = score_captions(
        tokens, ["a man 's dog", "two -lrb- 2 -rrb- cats"], NGRAM_METRICS, tokenize=False
    )
    assert score_captions(raw, candidates, NGRAM_METRICS) == expected


def test_empty_candidate_scores_nothing():
    scores = score_each_caption(REFERENCES, ["", "...", "a bus on a street"], NGRAM_METRICS)
    for name, values in scores.each.items():
        assert max(values[:2]) < 1e-8 < values[2], name


@pytest.mark.parametrize(
    ("references", "candidates", "metrics", "sentence"),
    [
        ([["a"]], ["a", "b"], ["bleu"], "references of 1 images and 2 candidates"),
        ([], [], ["bleu"], "no candidate"),
        ([["a"], []], ["a", "b"], ["cider"], "Image 1 (from 0) has no reference"),
        (["a dog"], ["a"], ["bleu"], "list of references for each image"),
        ([["a"]], ["a"], ["blue"], "did you mean 'bleu'"),
    ],
)
def test_wrong_input(references, candidates, metrics, sentence):
    with pytest.raises(InputError) as error:
        score_captions(references, candidates, metrics)
    assert sentence in str(error.value)


def test_an_index_learns_once():
    index = NgramIndex()
    index.learn(["a b c"], 2)
    with pytest.raises(ValueError, match="once"):
        index.learn(["a"], 2)
    singles, pairs = index.encode(["b c d", "d d", "c d"])
    assert index.sizes == [3, 2] and list(singles.gram) == [1, 2, 3, 3, 3, 2, 3]
    assert list(pairs.caption) == [0, 0, 1, 2] and list(pairs.gram) == [1, 2, 3, 2]


def test_wrong_indices():
    scorer = Cider(REFERENCES)
    with pytest.raises(InputError, match="one candidate for each of 3 images, got 1"):
        scorer.score(["a"])
    with pytest.raises(InputError, match="indices of 3 images, got 3 to 3"):
        scorer.score(["a"], [3])
