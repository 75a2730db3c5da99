import dataclasses
import importlib
import json
import pickle
from typing import Any

import numpy as np
import pytest

from jaxvision.data.captions.subword import SubwordVocabulary
from jaxvision.data.captions.vocabulary import (
    SPECIALS,
    Vocabulary,
    caption_words,
    check_vocabulary,
)
from jaxvision.data.captions.vocabulary_file import load_vocabulary
from jaxvision.data.source import DataError

CAPTIONS = [
    "A man riding a horse on the beach.",
    "A man on a merry-go-round, isn't it?",
    "The man's horse; two horses (brown)!",
    "Two Brown dogs play in the SNOW",
]


@pytest.fixture(scope="module")
def words():
    return Vocabulary.build(CAPTIONS, min_count=1)


@pytest.fixture(scope="module")
def pieces():
    return SubwordVocabulary.build(CAPTIONS * 3, size=300)


@pytest.mark.parametrize(
    "caption, expected",
    [
        ("A dog.", "a dog"),
        ("  Two,dogs;run(fast)!\t", "two dogs run fast"),
        ("a child's toy", "a child 's toy"),
        ("a child 's toy", "a child 's toy"),  # as Flickr8k writes it
        ("a child\N{RIGHT SINGLE QUOTATION MARK}s toy", "a child 's toy"),
        ("the dogs' toy isn't 'new'", "the dogs toy isn't new"),
        ("a T-shirt - the 2nd, at 8:30", "a t-shirt the 2nd at 8 30"),
        ("merry-go-round--and snake_case", "merry-go-round and snake case"),
        ("un café à Genève", "un café à genève"),
        ("<START> <UNK> a", "start unk a"),  # text never becomes a special
        (" . -- ' ", ""),
    ],
)
def test_the_rule_of_words(caption, expected):
    assert caption_words(caption) == expected.split()
    assert caption_words(" ".join(caption_words(caption))) == expected.split()


def test_build_counts_and_orders(words):
    vocabulary = Vocabulary.build(CAPTIONS, min_count=2)
    # By frequency, then by the alphabet.
    assert vocabulary.words == (*SPECIALS, "a", "man", "the", "brown", "horse", "on", "two")
    assert Vocabulary.build(CAPTIONS[::-1], min_count=2).words == vocabulary.words
    assert [vocabulary.pad, vocabulary.start, vocabulary.end, vocabulary.unk] == [0, 1, 2, 3]
    assert len(vocabulary) == 11 and {"'s", "merry-go-round", "isn't"} < set(words.words)
    with pytest.raises(DataError, match="None of the 18 words of the captions occurs 9 times"):
        Vocabulary.build(CAPTIONS, min_count=9)
    with pytest.raises(DataError, match="has the word 'a' twice"):
        Vocabulary(["a", "b", "a"])
    with pytest.raises(DataError, match="has the word '<END>' twice"):
        Vocabulary(["a", "<END>"])


def test_encode_and_decode(words):
    vocabulary = Vocabulary(["a", "man", "rides", "'s"])
    tokens = vocabulary.encode("A man 's zebra rides!", 9)
    assert tokens.dtype == np.int32 and tokens.tolist() == [1, 4, 5, 7, 3, 6, 2, 0, 0]
    assert vocabulary.decode(tokens) == "a man's rides"
    # Too long: words are lost, the end is not.
    assert vocabulary.encode("a man rides a man", 5).tolist() == [1, 4, 5, 6, 2]
    assert vocabulary.encode("a man rides", 5).tolist() == [1, 4, 5, 6, 2]
    assert vocabulary.encode("", 4).tolist() == [1, 2, 0, 0]
    # What a decoder gives: no start, words behind the end, never an end.
    assert vocabulary.decode([4, 5, 2, 6, 6, 999]) == "a man"
    assert vocabulary.decode([1, 0, 3, 4, 1, 5]) == "a man"
    assert vocabulary.decode([2]) == vocabulary.decode(np.zeros(3, np.int64)) == ""
    for token in (8, -1):
        with pytest.raises(DataError, match=f"token {token} is not among the 8"):
            vocabulary.decode([4, token])
    for caption in CAPTIONS:
        again = words.decode(words.encode(caption, 20))
        assert caption_words(again) == caption_words(caption)


def test_subwords_know_every_word(pieces, words):
    assert len(pieces) == 300 and pieces.words[:4] == SPECIALS
    for caption in [*CAPTIONS, "a zebra's façade \N{SNOWMAN} 東京 <END> xylophone"]:
        tokens = pieces.encode(caption, 60)
        assert tokens.dtype == np.int32 and tokens[0] == 1 and (tokens == 2).sum() == 1
        assert not (tokens == pieces.unk).any()
        assert caption_words(pieces.decode(tokens)) == caption_words(caption)
        assert "  " not in pieces.decode(tokens)
    for caption in CAPTIONS:  # the same text from both kinds
        ours, theirs = pieces.encode(caption, 99), words.encode(caption, 99)
        assert pieces.decode(ours) == words.decode(theirs)
    # A word has the same pieces in every place.
    assert sorted(pieces.ids("horse man")) == sorted(pieces.ids("man horse"))
    short = pieces.encode(CAPTIONS[0], 6)
    assert short[5] == 2 and short[0] == 1 and (short[1:5] > 3).all()
    more = SubwordVocabulary.build(CAPTIONS * 3, size=340)
    assert len(more.ids(CAPTIONS[0])) < len(pieces.ids(CAPTIONS[0]))
    again = SubwordVocabulary.build(CAPTIONS * 3, size=300)
    assert again.fingerprint == pieces.fingerprint != more.fingerprint
    with pytest.raises(DataError, match="260 tokens or more.* 100 are too few"):
        SubwordVocabulary.build(CAPTIONS, size=100)


@pytest.mark.parametrize("kind", ["words", "pieces"])
def test_saved_loaded_and_pickled(kind, request, tmp_path):
    vocabulary = request.getfixturevalue(kind)
    path = str(tmp_path / "vocabulary.json")
    vocabulary.save(path)
    loaded = load_vocabulary(path)
    assert [p.name for p in tmp_path.iterdir()] == ["vocabulary.json"]
    for copy in (loaded, pickle.loads(pickle.dumps(vocabulary))):
        assert type(copy) is type(vocabulary) and copy.words == vocabulary.words
        assert copy.fingerprint == vocabulary.fingerprint
        np.testing.assert_array_equal(
            copy.encode(CAPTIONS[1], 30), vocabulary.encode(CAPTIONS[1], 30)
        )


def test_the_courses_file_loads(tmp_path):
    names = [*SPECIALS, "a", "on", "of"]
    content = {"idx_to_word": names, "word_to_idx": {name: i for i, name in enumerate(names)}}
    (tmp_path / "coco2014_vocab.json").write_text(json.dumps(content))
    vocabulary = load_vocabulary(str(tmp_path / "coco2014_vocab.json"))
    assert vocabulary.words == tuple(names)
    assert vocabulary.fingerprint == Vocabulary(["a", "on", "of"]).fingerprint


def test_it_must_fit_the_weights(words):
    other = Vocabulary(words.words[:3:-1])
    check_vocabulary(words, size=len(words), fingerprint=words.fingerprint, where="runs/a")
    check_vocabulary(other, size=len(words), where="runs/a")
    with pytest.raises(DataError, match="has 22 tokens, but runs/a was trained with 30; take the"):
        check_vocabulary(words, size=30, where="runs/a")
    with pytest.raises(
        DataError, match="22 tokens like that of runs/a, but other words or another"
    ):
        check_vocabulary(other, size=22, fingerprint=words.fingerprint, where="runs/a")


@dataclasses.dataclass
class Row:
    """A file that is no vocabulary, and what the sentence must say."""

    id: str
    content: str | bytes | None
    expected: str


ROWS = [
    Row("missing", None, "v.json cannot be read (No such file or directory)"),
    Row("no json", "{'a'", "v.json is not JSON"),
    Row("cut short", '{"words": ["<NULL>", "<ST', "v.json is not JSON"),
    Row("no text", b"\xff\xfe\x00", "v.json is not JSON"),
    Row("deep", "[" * 100_000, "v.json is not JSON"),
    Row("a list", '["<NULL>"]', "v.json holds a list"),
    Row("no words", '{"merges": []}', "v.json holds no list of words"),
    Row("numbers", '{"words": ["<NULL>", 3]}', "v.json holds no list of words"),
    Row("no specials", '{"words": ["a", "b"]}', "v.json begins with the words ['a', 'b']"),
    Row(
        "other order",
        '{"words": ["<START>", "<NULL>", "<END>", "<UNK>", "a"]}',
        "v.json begins with the words ['<START>', '<NULL>'",
    ),
    Row(
        "twice",
        '{"words": ["<NULL>", "<START>", "<END>", "<UNK>", "a", "a"]}',
        "v.json holds a word twice",
    ),
    Row("no tokenizer", '{"tokenizer": {"model": 3}}', "v.json holds no tokenizer that can be"),
    Row(
        "bare tokenizer",
        '{"tokenizer": {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1},'
        ' "merges": []}, "added_tokens": [], "normalizer": null, "pre_tokenizer": null,'
        ' "post_processor": null, "decoder": null}}',
        "The tokenizer in {tmp}/v.json begins with the tokens ['a', 'b', None, None]",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_damaged_files_end_in_one_sentence(row, tmp_path):
    path = tmp_path / "v.json"
    if row.content is not None:
        path.write_bytes(row.content if isinstance(row.content, bytes) else row.content.encode())
    with pytest.raises(DataError) as caught:
        load_vocabulary(str(path))
    message = str(caught.value)
    assert row.expected.replace("{tmp}", str(tmp_path)) in message and "\n" not in message


def test_without_the_package(pieces, tmp_path, monkeypatch):
    pieces.save(str(tmp_path / "v.json"))

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    for call in (
        lambda: load_vocabulary(str(tmp_path / "v.json")),
        lambda: SubwordVocabulary.build(CAPTIONS, size=300),
    ):
        with pytest.raises(
            DataError, match="needs tokenizers, which is not installed: pip install"
        ):
            call()
