"""Captions through the whole pipeline: which one is drawn, and what stands in a batch."""

import collections
import itertools
import json
import logging

import numpy as np
import pytest
from making import train_transform

from jaxvision.batch import check_batch
from jaxvision.data.augment.compose import Compose
from jaxvision.data.augment.transforms import eval_transform
from jaxvision.data.captions.caption_source import CaptionSource
from jaxvision.data.captions.caption_target import CaptionTarget, check_captions
from jaxvision.data.captions.open_captions import open_caption_source
from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.data.pipeline import CorruptCounter, eval_dataset, train_dataset
from jaxvision.data.source import CorruptImageError, DataError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOCABULARY = Vocabulary([*DIGITS, *"abcde"])
TARGET = CaptionTarget(VOCABULARY, 6)
PLAIN = Compose(())


class Numbers(CaptionSource):
    """Image i shows i, and its captions spell i and end in one of five letters."""

    def __init__(self, length, corrupt=(), features=False):
        self.length, self.corrupt, self.features = length, frozenset(corrupt), features

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.corrupt:
            raise CorruptImageError(f"{index} is broken")
        image = np.array([[[index, 0, 0]]], np.uint8)
        features = {"features": np.full((2, 3), index, np.float32)}
        shown = features if self.features else {"image": image}
        return {**shown, "captions": self.captions(index), "image_id": self.image_id(index)}

    def captions(self, index):
        tens, ones = divmod(index, 10)
        return tuple(f"{DIGITS[tens]} {DIGITS[ones]} {letter}" for letter in "abcde")

    def image_id(self, index):
        return 1000 + index

    def describe(self, index):
        return f"number {index}"


def train(source, *, transform=PLAIN, batch_size=12, seed=3, **options):
    return train_dataset(
        source, transform=transform, target=TARGET, batch_size=batch_size, seed=seed, **options
    )


def evaluation(source, **options):
    return eval_dataset(source, transform=PLAIN, target=TARGET, batch_size=8, **options)


def take(iterator, number):
    batches = list(itertools.islice(iterator, number))
    return {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], key)


def spelled(tokens):
    """Returns the numbers that rows of tokens spell."""
    tens, ones = tokens[:, 1] - 4, tokens[:, 2] - 4
    return 10 * tens + ones


def test_batches_keep_the_contract():
    batch = next(train(Numbers(50)))
    assert set(batch) == {"image", "tokens", "image_id", "mask", "index", "corrupt"}
    check_batch(batch, num_classes=len(VOCABULARY))
    assert batch["tokens"].shape == (12, 6)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
    np.testing.assert_array_equal(spelled(batch["tokens"]), batch["index"])
    np.testing.assert_array_equal(batch["image_id"], 1000 + batch["index"])
    assert (batch["tokens"][:, [0, 4, 5]] == [1, 2, 0]).all()


def test_every_caption_is_drawn_equally_often():
    tokens = take(train(Numbers(60), batch_size=60), 50)["tokens"]
    counts = collections.Counter(tokens[:, 3].tolist())
    assert sorted(counts) == [14, 15, 16, 17, 18]
    # 3,000 draws of five: a standard deviation is 22.
    assert all(abs(count - 600) < 110 for count in counts.values())
    # An image has another caption in another epoch.
    epochs = [take(train(Numbers(60), batch_size=60, seed=s), 9) for s in (1, 1, 2)]
    assert_same(epochs[0], epochs[1])
    assert (epochs[0]["tokens"] != epochs[2]["tokens"]).any()
    first = epochs[0]["tokens"][epochs[0]["index"] == 7][:, 3]
    assert len(first) == 9 and len(set(first.tolist())) > 1


@pytest.mark.parametrize(
    "options", [{"num_threads": 1}, {"num_threads": 0}, {"prefetch_examples": 1}]
)
def test_threads_change_nothing(options):
    assert_same(take(train(Numbers(50), **options), 12), take(train(Numbers(50)), 12))


@pytest.mark.parametrize("process_count", [2, 3])
def test_processes_share_the_same_draws(process_count):
    whole = train(Numbers(50))
    shares = [
        train(Numbers(50), process_index=p, process_count=process_count)
        for p in range(process_count)
    ]
    for _ in range(6):
        expected, parts = next(whole), [next(share) for share in shares]
        assert_same({key: np.concatenate([p[key] for p in parts]) for key in expected}, expected)


def test_workers_and_resume_change_nothing():
    source = open_caption_source("shapes", "train", shapes={"num_train": 40}, image_size=16)
    vocabulary = Vocabulary.build(source.all_captions(), min_count=1)

    def make(workers):
        return train_dataset(
            source,
            transform=train_transform(16, crop="none", color_jitter=(0.2, 0.2, 0.0, 0.0)),
            target=CaptionTarget(vocabulary, 14),
            batch_size=12,
            seed=3,
            num_workers=workers,
            prefetch_examples=24,
        )

    plain = make(0)
    expected = [next(plain) for _ in range(6)]
    for batch in expected:
        for index, tokens in zip(batch["index"], batch["tokens"], strict=True):
            assert vocabulary.decode(tokens) in source.captions(int(index))
    one = make(1)
    for batch in expected[:3]:
        assert_same(next(one), batch)
    again = make(0)
    again.set_state(one.get_state())
    one.close()
    for batch in expected[3:]:
        assert_same(next(again), batch)


@pytest.mark.parametrize("features", [False, True])
def test_a_substitute_brings_its_own_caption(features):
    corrupt = {4, 17, 30}
    batches = take(train(Numbers(40, corrupt, features)), 20)
    np.testing.assert_array_equal(batches["corrupt"], np.isin(batches["index"], list(corrupt)))
    used = batches["features"][:, 0, 0] if features else batches["image"][:, 0, 0, 0]
    used = used.astype(int)
    assert not set(used.tolist()) & corrupt
    np.testing.assert_array_equal(spelled(batches["tokens"]), used)
    np.testing.assert_array_equal(batches["image_id"], 1000 + used)


@pytest.mark.parametrize("features", [False, True])
def test_evaluation_has_each_image_once(features):
    source = Numbers(19, corrupt={5}, features=features)
    batches = list(evaluation(source))
    merged = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
    for batch in batches:
        check_batch(batch, num_classes=len(VOCABULARY))
    valid = merged["mask"]
    expected = [i for i in range(19) if i != 5]
    assert merged["index"][valid].tolist() == expected and len(valid) == 24
    assert merged["image_id"][valid].tolist() == [1000 + i for i in expected]
    assert (merged["image_id"][~valid] == -1).all() and not merged["tokens"][~valid].any()
    assert not merged["features" if features else "image"][~valid].any()
    # The first caption of each; the source has the others.
    assert (merged["tokens"][valid][:, 3] == 14).all()
    counter = CorruptCounter(source, 0.0)
    with pytest.raises(DataError, match="number 5: 5 is broken"):
        counter.update(merged)


def test_features_pass_untouched():
    def refuse(image, rng):
        raise AssertionError("there is no image")

    batch = next(train(Numbers(20, features=True), transform=refuse))
    assert "image" not in batch and batch["features"].shape == (12, 2, 3)
    assert batch["features"].dtype == np.float32
    np.testing.assert_array_equal(batch["features"][:, 1, 2], batch["index"])


def test_small_images_keep_their_captions_when_cached(tmp_path, photo, encode):
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(3)]
    captions = [
        {"image_id": i, "caption": f"{word} {i}"} for i in range(3) for word in ("dog", "cat")
    ]
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / f"images/{i}.png").write_bytes(encode(photo(9, 9, i), "PNG"))
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": captions}))
    source = open_caption_source("coco_captions", "a", path=str(tmp_path))
    vocabulary = Vocabulary.build(source.all_captions(), min_count=1)
    batches = take(
        train_dataset(
            source,
            transform=eval_transform(8, eval_resize=9),
            target=CaptionTarget(vocabulary, 5),
            batch_size=3,
            seed=0,
        ),
        8,
    )
    drawn = {
        (int(i), vocabulary.decode(t))
        for i, t in zip(batches["image_id"], batches["tokens"], strict=True)
    }
    assert drawn == {(i, f"{word} {i}") for i in range(3) for word in ("dog", "cat")}


def test_labels_need_a_source_of_labels():
    with pytest.raises(TypeError, match="Numbers has no labels: give a target"):
        train_dataset(Numbers(9), transform=PLAIN, batch_size=3, seed=0)


def test_captions_are_counted_once(caplog):
    caplog.set_level(logging.INFO)
    vocabulary = Vocabulary(DIGITS)
    counts = check_captions(Numbers(20), vocabulary, 4)
    assert (counts.captions, counts.truncated, counts.longest) == (100, 100, 5)
    assert (counts.words, counts.unknown) == (300, 100)
    assert "100 captions: 100 cut to 4 tokens (the longest has 5), 33.33 % of 300" in caplog.text
    assert check_captions(Numbers(20), vocabulary, 5, strict=True).truncated == 0
    message = "100 of 100 captions are longer than 4 tokens, the longest needs 5 .*'zero zero a'"
    with pytest.raises(DataError, match=message) as caught:
        check_captions(Numbers(20), vocabulary, 4, strict=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="at least 3 tokens.* length is 2"):
        check_captions(Numbers(20), vocabulary, 2)
    with pytest.raises(DataError, match="at least 3 tokens.* length is 0"):
        CaptionTarget(vocabulary, 0)
