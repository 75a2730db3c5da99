"""Shares of a split: every class gives the same share, and nothing is in two of them."""

import re

import numpy as np
import pytest

from jaxvision.data.source import DataError, Example, Source
from jaxvision.data.sources.open_source import open_source
from jaxvision.data.sources.share import check_disjoint, parse_share, share_of


class Labels(Source):
    """Records that are their labels; images that must not be read."""

    def __init__(self, labels):
        self._labels, self.class_names = labels, ("a", "b", "c")

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        raise AssertionError("an image was read")

    def label(self, index: int) -> int:
        return self._labels[index]

    def describe(self, index: int) -> str:
        return str(index)


def members(source):
    return [int(source.describe(i)) for i in range(len(source))]


def test_shares_are_disjoint_whole_and_of_every_class():
    source = Labels([0] * 50 + [1] * 20 + [2] * 7)
    bounds = [0, 12.5, 80, 100]
    shares = [share_of(source, *pair) for pair in zip(bounds[:-1], bounds[1:], strict=True)]
    parts = list(map(members, shares))
    assert sorted(sum(parts, [])) == list(range(77)) and all(p == sorted(p) for p in parts)
    counts = [np.bincount(np.array(source._labels)[part]).tolist() for part in parts]
    assert counts == [[6, 2, 1], [34, 14, 5], [10, 4, 1]]
    assert parts[1] != list(range(min(parts[1]), max(parts[1]) + 1))  # drawn, not cut off
    assert members(share_of(source, 0, 12.5)) == parts[0]  # the same on every machine


def test_names_of_shares():
    assert parse_share("train") == ("train", None)
    assert parse_share("train_[0-9].zip") == ("train_[0-9].zip", None)
    assert parse_share("train[:80%]") == ("train", (0, 80))
    assert parse_share("[80%:]") == ("", (80, 100))
    assert parse_share("a[1][12.5%:20%]") == ("a[1]", (12.5, 20))
    for wrong in (
        "train[:80]",
        "train[80%:20%]",
        "train[5%:5%]",
        "train[:101%]",
        "[x%:]",
        "[-1%:]",
    ):
        with pytest.raises(DataError, match=re.escape(repr(wrong))):
            parse_share(wrong)


def test_shares_to_train_and_to_evaluate_on_have_no_image_in_common():
    for pair in (("[:80%]", "[80%:]"), ("train", "test"), ("train[:9%]", "test[:9%]"), ("a", "a")):
        check_disjoint(*pair)
    for pair in (("[:80%]", "[70%:]"), ("train", "train[80%:]"), ("train[:50%]", "train[10%:20%]")):
        with pytest.raises(DataError, match="have images in common"):
            check_disjoint(*pair)


def test_an_unsplit_folder(folder):
    whole = open_source("folder", "train", path=str(folder))
    path = str(folder / "train")
    first = open_source("folder", "[:50%]", path=path)
    second = open_source("folder", "[50%:]", path=path, class_names=first.class_names)
    names = [[s.describe(i) for i in range(len(s))] for s in (first, second, whole)]
    assert sorted(names[0] + names[1]) == sorted(names[2]) and names[0] and names[1]
    assert first.class_names == second.class_names == whole.class_names


def test_a_new_image_moves_few_others(folder, photo, encode):
    """Those that were trained on must not become those that are evaluated."""
    path = folder / "train"
    for class_folder in path.iterdir():
        for i in range(20):
            (class_folder / f"more{i}.png").write_bytes(encode(photo(8, 8), "PNG"))

    def seen(split):
        source = open_source("folder", split, path=str(path))
        return {source.describe(i) for i in range(len(source))}, source

    before, source = seen("[:80%]")
    parts = dict(source.parts())
    for class_folder in path.iterdir():
        (class_folder / "new.png").write_bytes(encode(photo(8, 8), "PNG"))
    after, source = seen("[80%:]")
    assert len(before & after) <= len(source.class_names)
    assert parts and source.parts().keys() == parts.keys() and source.parts() != parts
