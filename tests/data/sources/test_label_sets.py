"""Images with several labels: tables in their forms, and the built-in data."""

import numpy as np
import pytest
from PIL import Image

from jaxvision.data.source import DataError
from jaxvision.data.sources.label_sets import hold_out_label_sets, label_matrix, open_label_sets


def write(folder, text, *, name="train.csv", images=("a.png", "b.png", "c.png")):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / image)
    (folder / name).write_text(text)
    return folder


SETS = "path,labels\na.png,dog; cat\nb.png,\nc.png,cat\n"
COLUMNS = "file_name,sun,rain\na.png,1,0\nb.png,,1.0\nc.png,-1,0\n"


def opened(folder, split="train", name="list", **options):
    return open_label_sets(name, split, path=str(folder), **options)


def test_names_in_a_cell(tmp_path):
    source = opened(write(tmp_path, SETS))
    assert source.class_names == ("cat", "dog")
    assert label_matrix(source).tolist() == [[1, 1], [0, 0], [1, 0]]
    np.testing.assert_array_equal(source[0]["label"], [1, 1])
    assert source[0]["image"].startswith(b"\x89PNG") and "line 2" in source.describe(0)
    text = SETS.replace(";", " ").replace(",labels", "\tlabels").replace("png,", "png\t")
    other = opened(write(tmp_path, text, name="other.tsv"), "other", separator=" ")
    np.testing.assert_array_equal(label_matrix(other), label_matrix(source))


def test_a_column_for_each_class_where_not_all_is_known(tmp_path):
    source = opened(write(tmp_path, COLUMNS))
    assert source.class_names == ("sun", "rain")
    assert label_matrix(source).tolist() == [[1, 0], [-1, 1], [-1, 0]]
    known = opened(tmp_path, class_names=("fog", "rain", "sun"))
    assert label_matrix(known).tolist() == [[-1, 0, 1], [-1, 1, -1], [-1, 0, -1]]


def test_a_folder_with_a_table(tmp_path):
    write(tmp_path / "train", COLUMNS, name="metadata.csv")
    assert len(opened(tmp_path, name="folder")) == 3
    (tmp_path / "train" / "d.png").write_bytes(b"")
    with pytest.raises(
        DataError, match="has no row for 1 of the 4 images beside it, such as d.png"
    ):
        opened(tmp_path, name="folder")


def test_listed_classes_are_in_the_order_of_the_list(tmp_path):
    write(tmp_path, SETS)
    (tmp_path / "classes.txt").write_text("dog\nfox\ncat\n")
    assert opened(tmp_path).class_names == ("dog", "fox", "cat")
    assert label_matrix(opened(tmp_path)).tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]


def test_shares_of_a_split_have_nothing_in_common(tmp_path):
    names = [f"{i}.png" for i in range(20)]
    rows = "".join(f"{name},{i % 2},1\n" for i, name in enumerate(names))
    write(tmp_path, f"path,odd,all\n{rows}", images=names)
    first, rest = opened(tmp_path, "train[:80%]"), opened(tmp_path, "train[80%:]")
    assert (len(first), len(rest)) == (16, 4)
    assert not {first.describe(i) for i in range(16)} & {rest.describe(i) for i in range(4)}
    assert label_matrix(rest).shape == (4, 2)
    whole = opened(tmp_path)
    train, held = hold_out_label_sets(whole, 20.0)
    for one, other in ((train, first), (held, rest)):
        described = [[x.describe(i) for i in range(len(x))] for x in (one, other)]
        assert described[0] == described[1]
    with pytest.raises(DataError, match="eval_split=1% is 0 of 20 images"):
        hold_out_label_sets(whole, 1.0)


def test_parts_notice_other_labels(tmp_path):
    before = opened(write(tmp_path, COLUMNS)).parts()
    after = opened(write(tmp_path, COLUMNS.replace("a.png,1", "a.png,0"))).parts()
    assert before["images"] == after["images"] and before["labels"] != after["labels"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns '', but a header with `path`"),
        ("a.png,1\n", "columns 'a.png, 1', but a header"),
        ("path\na.png\n", "columns 'path', but a header"),
        ("path,x,x\na.png,1,0\n", "none twice"),
        ("path,x\na.png,2\n", "line 2: the cell of 'x' is '2', but 1"),
        ("path,x\na.png,dog\n", "names of classes belong into one column `labels`"),
        ("path,x\na.png,1,1\n", "line 2: expected 2 cells"),
        ("path,x\nq.png,1\n", "line 2: there is no file .*q.png"),
        ("path,x\na.png,1\na.png,0\n", "line 3: .*a.png has a row already, line 2"),
        ("path,labels\na.png,\n", "names no class"),
        ("path,x\n", "is empty"),
        ("path,x\na.png,1\0\n", "the cell of 'x' is"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        opened(write(tmp_path, text))


def test_other_classes_than_those_of_the_run_are_refused(tmp_path):
    write(tmp_path, SETS)
    with pytest.raises(
        DataError, match="has the classes 'dog', not among the 2 classes of the run"
    ):
        opened(tmp_path, class_names=("cat", "fox"))
    with pytest.raises(DataError, match="must be one of shapes, list, folder, got 'cifar10'"):
        open_label_sets("cifar10", "train")
    with pytest.raises(DataError, match="has 20: give the data of the run"):
        open_label_sets("shapes", "train", class_names=("a",))
    with pytest.raises(DataError, match=r"table of the split 'test'.*labels.csv"):
        opened(tmp_path, "test", name="folder")


def test_shapes_show_what_their_labels_say():
    source = open_label_sets("shapes", "test", image_size=32, shapes={"num_eval": 200})
    labels = label_matrix(source)
    assert labels.shape == (200, 20) and set(np.unique(labels)) == {0, 1}
    shapes, colors = labels[:, :8].sum(axis=1), labels[:, 8:].sum(axis=1)
    assert set(shapes.tolist()) == {1, 2, 3} and set(colors.tolist()) == {1, 2, 3}
    assert (labels.mean(axis=0) > 0.02).all()
    record = source[7]
    assert record["image"].shape == (32, 32, 3)
    np.testing.assert_array_equal(record["label"], labels[7])
    np.testing.assert_array_equal(source[7]["image"], record["image"])
