"""Shares of a split: every class gives the same share, and nothing is in two of them."""

import re

import numpy as np
import pytest

from jaxvision.data.source import DataError, Example, Source
from jaxvision.data.sources.open_source import open_both, open_source
from jaxvision.data.sources.share import check_disjoint, held_out, hold_out, parse_share, share_of


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


def test_a_share_of_the_training_split_is_held_out():
    source = Labels([0] * 50 + [1] * 20 + [2] * 7)
    train, evaluation = hold_out(source, 10.0)
    assert sorted(members(train) + members(evaluation)) == list(range(77))
    assert [evaluation.label(i) for i in range(len(evaluation))] == [0] * 5 + [1] * 2 + [2]
    assert members(evaluation) == members(share_of(source, 90, 100))
    assert held_out("10%") == 10 and held_out("12.5%") == 12.5
    for split in ("test", "10", "train[:10%]", "%", "a10%"):
        assert held_out(split) is None
    for split in ("0%", "100%", "250%"):
        with pytest.raises(DataError, match=f"eval_split={split} is a share .* such as 10%"):
            held_out(split)
    with pytest.raises(DataError, match="10% is 0 of 8 images, rounded in each class"):
        hold_out(Labels([0] * 4 + [1] * 4), 10.0)


def write_each(tmp_path, encode, photo, order):
    """Writes the same 24 images as every kind of data, in an order; returns their open_both."""
    import csv

    import datasets

    from jaxvision.data.prepare import Preparation, prepare_split

    root = tmp_path / "-".join(map(str, order[:3]))
    rows = []
    for i in order:
        path = root / f"folder/train/{'ab'[i % 2]}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = photo(8, 8, i)
        pixels[0, 0] = i  # by which it is known
        path.write_bytes(encode(pixels, "PNG"))
        rows.append((path, "ab"[i % 2]))
    with open(root / "train.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    images = [{"bytes": path.read_bytes(), "path": path.name} for path, _ in rows]
    data = {"image": images, "label": [label for _, label in rows]}
    datasets.Dataset.from_dict(data, features, split="train").save_to_disk(root / "hf")
    table = open_source("list", "train", path=str(root))
    prepare_split(table, root / "records", "train", Preparation(shards=2), workers=1)
    return {
        "folder": ("folder", str(root / "folder")),
        "list": ("list", str(root)),
        "hf": (f"hf:{root}/hf", ""),
        "array_record": ("array_record", str(root / "records")),
    }


def test_every_kind_of_data_holds_out_the_same_images_in_any_order(tmp_path, encode, photo):
    """By the names of the files: not by the order in which they lie."""
    from jaxvision.data.decode import decode_image

    found = {}
    for order in (range(24), range(23, -1, -1)):
        for kind, (name, path) in write_each(tmp_path, encode, photo, list(order)).items():
            train, evaluation = open_both(name, "train", "25%", path=path)
            assert train is not None and len(train) == 18
            names = [decode_image(evaluation[i]["image"])[0, 0, 0] for i in range(6)]
            assert sorted(evaluation.label(i) for i in range(6)) == [0] * 3 + [1] * 3
            assert train.class_names == evaluation.class_names == ("a", "b")
            found[kind, order[0]] = sorted(int(name) for name in names)
    assert len({tuple(v) for k, v in found.items()}) == 1, found


def test_shapes_and_cifar_hold_out_too():
    train, evaluation = open_both("shapes", "train", "20%", shapes={"num_train": 50}, image_size=8)
    assert train is not None
    names = [{s.describe(i) for i in range(len(s))} for s in (train, evaluation)]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 50
    counts = np.bincount([evaluation.label(i) for i in range(len(evaluation))])
    assert set(counts) == {counts[0]} and evaluation.label(1) == evaluation[1]["label"]
    again = open_both(
        "shapes", "train", "20%", shapes={"num_train": 50}, image_size=8,
        class_names=train.class_names, training=False,
    )[1]  # fmt: skip
    assert {again.describe(i) for i in range(len(again))} == names[1]
