"""Data sets of the library `datasets`, made by itself: the very bytes, labels and splits."""

import pickle
import sys

import pytest

from jaxvision.data.decode import decode_image
from jaxvision.data.source import CorruptImageError, DataError
from jaxvision.data.sources.open_source import open_source

datasets = pytest.importorskip("datasets")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the library, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return str(tmp_path / "cache")


@pytest.fixture
def pets(folder, cache):
    """The images of `folder`, as the library sees them."""
    (folder / "train/cat/deep/er/c.jpg").rename(folder / "train/cat/c.jpg")
    options = {"data_dir": str(folder), "cache_dir": cache, "drop_labels": False}
    return datasets.load_dataset("imagefolder", **options)


def expected(folder, split):
    source = open_source("folder", split, path=str(folder), class_names=("cat", "dog"))
    return sorted((source[i]["image"], source[i]["label"]) for i in range(len(source)))


def records(source):
    return sorted((source[i]["image"], source[i]["label"]) for i in range(len(source)))


def test_what_save_to_disk_wrote(pets, folder, tmp_path, cache):
    pets.save_to_disk(tmp_path / "saved")
    for split in ("train", "test"):
        source = open_source(f"hf:{tmp_path}/saved", split)
        assert source.class_names == ("cat", "dog")
        assert records(source) == expected(folder, split)
        assert [source.label(i) for i in range(len(source))] == [
            source[i]["label"] for i in range(len(source))
        ]
        assert records(pickle.loads(pickle.dumps(source))) == records(source)
    assert source.describe(0) == f"hf:{tmp_path}/saved test record 0 f.jpg"
    assert list(source.parts()) == ["data-00000-of-00001.arrow"]
    one = open_source(f"hf:{tmp_path}/saved/train", "train")
    assert records(one) == expected(folder, "train")
    shares = [open_source(f"hf:{tmp_path}/saved/train", s) for s in ("[:50%]", "[50%:]")]
    assert sorted(records(shares[0]) + records(shares[1])) == expected(folder, "train")
    for split, message in (("val", "has the splits train, test, but 'val'"), ("", "but ''")):
        with pytest.raises(DataError, match=message):
            open_source(f"hf:{tmp_path}/saved", split)
    with pytest.raises(DataError, match="is one split, 'train', but 'test' was asked for"):
        open_source(f"hf:{tmp_path}/saved/train", "test")


@pytest.mark.parametrize("below", ["", "data"])
def test_parquet(pets, folder, tmp_path, cache, below):
    place = tmp_path / "parquet" / below
    place.mkdir(parents=True)
    for number in range(2):
        shard = pets["train"].shard(2, number)
        shard.to_parquet(place / f"train-0000{number}-of-00002.parquet")
    pets["test"].to_parquet(place / "test.parquet")
    for split in ("train", "test"):
        source = open_source(f"hf:{tmp_path}/parquet", split, path=cache)
        assert source.class_names == ("cat", "dog")
        assert records(source) == expected(folder, split)
    (place / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="1 of the 2 files train-"):
        open_source(f"hf:{tmp_path}/parquet", "train", path=cache)
    with pytest.raises(DataError, match="Files of the split 'val' not found"):
        open_source(f"hf:{tmp_path}/parquet", "val", path=cache)
    (place / "val.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(DataError, match="'val' of hf:.* cannot be read"):
        open_source(f"hf:{tmp_path}/parquet", "val", path=cache)


def test_a_name_in_the_cache(pets, folder, cache, tmp_path):
    """The library keeps a data set of the hub in owner___name/configuration/version/hash."""
    (made,) = (tmp_path / "cache/imagefolder").iterdir()
    place = tmp_path / "cache/some___tiny_pets"
    place.mkdir()
    made.rename(place / "default")
    for name in ("some/TinyPets", "some/TinyPets:default"):
        source = open_source(f"hf:{name}", "train", path=cache)
        assert records(source) == expected(folder, "train")
    (place / "other").symlink_to(place / "default")
    with pytest.raises(DataError, match="2 configurations, default, other; give .*=hf:some/Tiny"):
        open_source("hf:some/TinyPets", "train", path=cache)
    with pytest.raises(DataError, match="'hf:some/none|hf:some/none not found.*load_dataset"):
        open_source("hf:some/none", "train", path=cache)


def test_order_of_another_list_of_classes(pets, folder, tmp_path):
    pets.save_to_disk(tmp_path / "saved")
    source = open_source(f"hf:{tmp_path}/saved", "train", class_names=("dog", "fox", "cat"))
    labels = [{0: 2, 1: 0}[label] for _, label in expected(folder, "train")]
    assert sorted(label for _, label in records(source)) == sorted(labels)


def test_columns(pets, folder, tmp_path):
    train = pets["train"]
    kinds = [["cat", "dog"][i] for i in train["label"]]
    more = train.add_column("kind", kinds).add_column("number", list(train["label"]))
    more = more.cast_column("number", datasets.Value("int64"))
    numbers = [None] * len(kinds)
    more = more.add_column("none", numbers, feature=datasets.Value("int64"))
    path = str(tmp_path / "more")
    more.rename_column("label", "a").add_column(
        "b", list(train["label"]), feature=train.features["label"]
    ).save_to_disk(path)
    with pytest.raises(DataError, match="the columns a, b of type ClassLabel; its columns are .*ima"
                       "ge, a, kind, number, none, b: name .*label_column=NAME"):  # fmt: skip
        open_source(f"hf:{path}", "train")
    for column in ("a", "b", "kind"):
        source = open_source(f"hf:{path}", "train", label_column=column)
        assert records(source) == expected(folder, "train")
        assert source.class_names == ("cat", "dog")
    source = open_source(f"hf:{path}", "train", label_column="number")
    assert records(source) == expected(folder, "train") and source.class_names == ("0", "1")
    for options, message in (
        ({"label_column": "c"}, "no column 'c'"),
        ({"label_column": "none"}, "record 0 has no label"),
        ({"label_column": "a", "image_column": "number"}, "'number' of .* holds no images"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(f"hf:{path}", "train", **options)
    with pytest.raises(DataError, match="name columns of data sets hf:<name>.*is folder"):
        open_source("folder", "train", path=str(folder), image_column="image")


def test_raw_bytes_and_records_without_an_image(folder, tmp_path):
    """Parquet of other writers: bytes alone, or none, and labels that are not there."""
    image = (folder / "train/cat/b.jpg").read_bytes()
    rows = {"picture": [image, None, image, b"no image"], "label": [0, 1, None, 1]}
    features = datasets.Features(
        {"picture": datasets.Value("binary"), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "train.parquet")
    options = {"path": str(tmp_path / "cache"), "image_column": "picture"}
    source = open_source(f"hf:{tmp_path}", "train", **options)
    assert source[0] == {"image": image, "label": 0} and source.label(2) == -1
    assert decode_image(source[2]["image"]).shape == (12, 10, 3)
    with pytest.raises(CorruptImageError, match="its record is damaged"):
        source[1]
    assert source.describe(1).endswith("train record 1")
    with pytest.raises(DataError, match="no column of type Image; its columns are picture, label"):
        open_source(f"hf:{tmp_path}", "train", path=str(tmp_path / "cache"))


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the library .*pip install 'jaxvision-nnx\[hf\]'"):
        open_source("hf:pets", "train")
