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


def table(*labels):
    return "".join(f"train/cat/b.jpg,{label}\n" for label in labels)


def labels_of(source):
    return [source[i]["label"] for i in range(len(source))]


@pytest.mark.parametrize(
    "train, names, test, expected",
    [
        ((0, 1, 10, *range(2, 10)), tuple(map(str, range(11))), (10, 2, 0), [10, 2, 0]),
        ((2, 1, 2), ("1", "2"), (1, 2), [0, 1]),  # no class 0
        (("02", "01"), ("01", "02"), ("02",), [1]),
        ((1, 2, "unknown"), ("1", "2", "unknown"), (1, 2), [0, 1]),
        ((10, 9, "x"), ("10", "9", "x"), (9, 10), [1, 0]),
    ],
)
def test_a_label_means_the_same_in_every_table(folder, train, names, test, expected):
    path = write(folder, "train.csv", table(*train))
    write(folder, "test.csv", table(*test))
    source = open_source("list", "train", path=path)
    assert source.class_names == names
    assert labels_of(source) == [names.index(str(label)) for label in train]
    source = open_source("list", "test", path=path, class_names=names)
    assert labels_of(source) == expected and source.class_names == names


@pytest.mark.parametrize(
    "labels, message",
    [
        ((0, 1, 20231105, 1), "line 3: the label is '20231105' where 2 was expected"),
        ((1, 3, 1), "line 2: the label is '3' where 2 was expected"),
        ((5, 6), "line 1: the label is '5' where 1 was expected"),
        ((1, 2, "02"), "line [23]: the label is '0?2' where 3 was expected"),
    ],
)
def test_whole_numbers_have_no_gap(folder, labels, message):
    path = write(folder, "train.csv", table(*labels))
    with pytest.raises(DataError, match=f"{message}.*write the names .* into classes.txt"):
        open_source("list", "train", path=path)


def test_classes_beside_the_table(folder):
    write(folder, "classes.txt", "fox\ndog\ncat\n")
    for labels in ((2, 0), ("cat", "fox")):
        source = open_source("list", "train", path=write(folder, "train.csv", table(*labels)))
        assert source.class_names == ("fox", "dog", "cat") and labels_of(source) == [2, 0]
    run = ("cat", "dog", "fox")  # a label is a name first, and then its place in the run
    path = write(folder, "train.csv", table(2, 0))
    assert labels_of(open_source("list", "train", path=path, class_names=run)) == [0, 2]
    path = write(folder, "train.csv", table(0, 3))
    with pytest.raises(DataError, match="line 2: the label '3' is neither a name in classes.txt"):
        open_source("list", "train", path=path)


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
        ("train/cat/b.jpg,cat\ntrain/cat/b.jpg, \n", "line 2: expected 2 cells"),
        ("train/cat/b.jpg,1\ntrain/cat/b.jpg,0\n", "line 1: the label '1' is not among the 2"),
        ("path,label\n", "is empty"),
    ],
)
def test_errors_name_the_line(folder, text, message):
    path = write(folder, "a.csv", text)
    with pytest.raises(DataError, match=message):
        open_source("list", "a", path=path, class_names=("cat", "dog"))


def test_missing_table(tmp_path):
    with pytest.raises(DataError, match="'train'.*columns path and label.*--config=quickstart"):
        open_source("list", "train", path=str(tmp_path))
