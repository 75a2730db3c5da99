import pytest

from jaxvision.data.source import DataError
from jaxvision.data.sources.open_source import open_source


def write(folder, name, text):
    (folder / name).write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.csv", "path,label\ntrain/cat/b.jpg,cat\ntest/dog/f.jpg,dog\n"),
        ("a.csv", "train/cat/b.jpg,cat\n\ntest/dog/f.jpg,dog"),
        ("a.tsv", "id\tlabel\tpath\n7\tcat\ttrain/cat/b.jpg\n8\tdog\ttest/dog/f.jpg\n"),
        ("a.csv", '\ufeffPath, Label\r\ntrain/cat/b.jpg,cat\r\n"test/dog/f.jpg", dog\r\n'),
    ],
)
def test_tables(folder, name, text):
    path = write(folder, name, text)
    for split in ("a", name):
        source = open_source("list", split, path=path)
        assert source.class_names == ("cat", "dog")
        assert [source[i]["label"] for i in range(2)] == [0, 1]
        assert source[1]["image"] == (folder / "test/dog/f.jpg").read_bytes()
        assert "f.jpg" in source.describe(1) and f"{name}, line" in source.describe(1)


def test_integer_labels_are_class_indices(folder):
    path = write(folder, "train.csv", "train/cat/b.jpg,2\ntest/dog/f.jpg,0\n")
    source = open_source("list", "train", path=path)
    assert source.class_names == ("0", "1", "2")
    assert [source[i]["label"] for i in range(2)] == [2, 0]
    names = open_source("list", "train", path=path, class_names=("x", "y", "z"))
    assert names[0]["label"] == 2 and names.class_names == ("x", "y", "z")


@pytest.mark.parametrize(
    "text, message",
    [
        ("path,label\ntrain/cat/b.jpg,cat\nnone.jpg,dog\n", "line 3: there is no file"),
        ("train/cat/b.jpg,cat\ntrain/cat/b.jpg\n", "line 2: expected 2 cells"),
        ("train/cat/b.jpg,cat\n,dog\n", "line 2: expected 2 cells"),
        (
            "train/cat/b.jpg,cat\ntrain/cat/b.jpg,fox\n",
            "line 2: the label 'fox' is not among the 2",
        ),
        ("train/cat/b.jpg,0\ntrain/cat/b.jpg,2\n", "line 2: the label '2' is not among the 2"),
        ("train/cat/b.jpg,0\ntrain/cat/b.jpg,-1\n", "line 2: the label '-1' is not among the 2"),
        ("path,label\n", "is empty"),
    ],
)
def test_errors_name_the_line(folder, text, message):
    path = write(folder, "a.csv", text)
    with pytest.raises(DataError, match=message):
        open_source("list", "a", path=path, class_names=("cat", "dog"))


def test_missing_table(tmp_path):
    with pytest.raises(DataError, match="'train'.*columns path and label.*configs/quickstart.py"):
        open_source("list", "train", path=str(tmp_path))
