"""Tokenizers of published text encoders, against the libraries that they come from."""

import gzip
import json
import pickle

import numpy as np
import pytest

from jaxvision.data.captions.text_tokenizer import TextTokenizer
from jaxvision.data.captions.vocabulary_file import load_vocabulary
from jaxvision.data.source import DataError

tokenizers = pytest.importorskip("tokenizers")
TEXTS = (
    "A photo of a cat.",
    "  A\tPHOTO   of\n two dogs, isn't it?  ",
    "Crème brûlée — 12 € & a naïve café",
    "",
    "!!!",
    "the dog's 365 days " * 9,
    "<|endoftext|> is a word",
    "日本語 \N{GRINNING FACE}",
)
LENGTH = 16


def bpe_files():
    """Returns (vocabulary, merges) in CLIP's layout, learned from a few sentences."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    pre = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = pre.Sequence(
        [pre.WhitespaceSplit(), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    sentences = ["a photo of a cat", "two dogs on the grass", "a day of the dog"] * 5
    tokenizer.train_from_iterator(sentences, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = model["vocab"]
    for letter in alphabet:  # every byte can end a word
        vocab.setdefault(f"{letter}</w>", len(vocab))
    return vocab, [tuple(pair) for pair in model["merges"]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Returns (the tokenizer of transformers, the folder that it wrote)."""
    transformers = pytest.importorskip("transformers")
    vocab, merges = bpe_files()
    folder = tmp_path_factory.mktemp("clip")
    theirs = transformers.CLIPTokenizer(vocab=vocab, merges=merges)
    theirs.save_pretrained(folder)
    return theirs, folder, vocab, merges


def check(ours, theirs):
    wanted = theirs(
        list(TEXTS), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np"
    )["input_ids"]
    found = np.stack([ours.encode(text, LENGTH) for text in TEXTS])
    np.testing.assert_array_equal(found, wanted)


def test_clip_as_transformers_writes_it(clip, tmp_path):
    theirs, folder, vocab, merges = clip
    ours = load_vocabulary(str(folder))
    check(ours, theirs)
    assert (ours.start, ours.end) == (theirs.bos_token_id, theirs.eos_token_id)
    assert len(ours) == len(theirs) and ours.num_specials == 2
    assert ours.decode(ours.encode("Two  DOGS on the grass", LENGTH)) == "two dogs on the grass"
    # Its two older files.
    two = tmp_path / "two"
    two.mkdir()
    (two / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (two / "merges.txt").write_text("\n".join(lines))
    check(load_vocabulary(str(two)), theirs)
    # What a run keeps, and what goes to a worker.
    ours.save(str(tmp_path / "vocabulary.json"))
    again = load_vocabulary(str(tmp_path / "vocabulary.json"))
    assert again.fingerprint == ours.fingerprint and (again.pad, again.end) == (ours.pad, ours.end)
    check(again, theirs)
    check(pickle.loads(pickle.dumps(ours)), theirs)


def test_a_text_that_is_too_long_keeps_its_end(clip):
    ours = load_vocabulary(str(clip[1]))
    row = ours.encode("the dog " * 30, 8)
    assert row[0] == ours.start and row[-1] == ours.end and len(row) == 8


def test_the_published_merges_give_the_ids_of_open_clip():
    tokenizer = pytest.importorskip("open_clip.tokenizer")
    ours = load_vocabulary(tokenizer.default_bpe())
    assert (len(ours), ours.start, ours.end, ours.pad) == (49_408, 49_406, 49_407, 0)
    theirs = tokenizer.SimpleTokenizer()
    texts = [text for text in TEXTS if "<|" not in text]
    wanted = theirs(texts, context_length=77).numpy()
    found = np.stack([ours.encode(text, 77) for text in texts])
    np.testing.assert_array_equal(found, wanted)


def test_siglip_ends_every_text_and_fills_with_the_same_token(tmp_path):
    """A sentencepiece model as transformers converts it: Unigram, an end, no start."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("▁a", -2.5), ("▁cat", -3.0)]
    pieces += [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours = load_vocabulary(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8, pad_id=1, pad_token="</s>")
    for text in ("A cat", "a bat sat on a mat", ""):
        np.testing.assert_array_equal(ours.encode(text, 8), tokenizer.encode(text).ids)
    assert (ours.num_specials, ours.end, ours.pad) == (1, 1, 1)
    assert ours.decode(ours.encode("A cat", 8)) == "a cat"
    # Another token to fill with, as tokenizer_config.json says.
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"] = [
        {
            "id": 0,
            "content": "<unk>",
            "special": True,
            "normalized": False,
            "lstrip": False,
            "rstrip": False,
            "single_word": False,
        }
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<unk>"}')
    assert load_vocabulary(str(tmp_path)).pad == 0


def wordpiece():
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    return tokenizer.to_str()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("empty", None, "holds no tokenizer; expected tokenizer.json"),
        ("tokenizer.json", '{"model": 1}', "no tokenizer that can be read"),
        ("tokenizer.json", wordpiece, "adds 0 tokens to an empty text"),
        ("vocab.json", '{"a": "b"}', "must give each piece a number"),
        ("vocab.json", '{"a": 0}', "has no token <|startoftext|>"),
        ("bpe.txt", "#version\na b c", "two pieces in each line"),
        ("bpe.txt", "#version", "holds no merges"),
        ("bpe.txt.gz", gzip.compress(b"#version\na b", mtime=0)[:-9], "cannot be read"),
        ("bpe.txt", b"\xff\xfe", "cannot be read"),
    ],
)  # fmt: skip
def test_files_that_are_no_tokenizer(tmp_path, name, content, words):
    content = content() if callable(content) else content
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
    (tmp_path / "merges.txt").write_text("#version\na b")
    is_folder = name in ("empty", "vocab.json")
    with pytest.raises(DataError, match=words.replace("|", r"\|")):
        load_vocabulary(str(tmp_path if is_folder else tmp_path / name))


def test_a_captioner_does_not_write_with_it(clip, tmp_path):
    from opening import make_run

    from configs import caption_shapes
    from jaxvision.errors import InputError

    config = caption_shapes.get_config()
    config.data.name, config.data.shapes.num_train = "one_shape", 10
    config.data.shapes.num_eval = 10
    config.caption.vocabulary = str(clip[1])
    with pytest.raises(InputError, match="is the tokenizer of a text encoder"):
        make_run(config)


def test_a_padding_token_that_is_none():
    with pytest.raises(DataError, match="adds 0 tokens"):
        TextTokenizer(wordpiece(), 3)
