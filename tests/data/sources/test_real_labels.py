"""ImageNet-ReaL and ImageNet-V2, on forged files."""

import json

import bad_files
import numpy as np
import pytest

from jaxvision.data.source import DataError
from jaxvision.data.sources.folder import FolderSource
from jaxvision.data.sources.open_source import open_source
from jaxvision.data.sources.real_labels import read_real_labels, real_correct


def folders(root, files):
    """Writes an image into each class folder, {name: file}."""
    for name, file in files.items():
        (root / name).mkdir(parents=True)
        (root / name / file).write_bytes(bad_files.image())
    return FolderSource(str(root), "")


def val(number):
    return f"ILSVRC2012_val_{number:08d}.JPEG"


@pytest.fixture
def source(tmp_path):
    """Images 3, 1 and 2 of the original list, in the order of the folders."""
    return folders(tmp_path / "val", {"n01": val(3), "n02": val(1), "n03": val(2)})


def write(folder, content):
    (folder / "real.json").write_text(json.dumps(content))
    return str(folder / "real.json")


def test_labels_go_by_the_name_of_an_image_and_empty_sets_are_left_out(source, tmp_path):
    labels = read_real_labels(write(tmp_path, [[1, 2], [], [0]]), source, num_classes=3)
    assert labels == [{0}, {1, 2}, set()]
    records = np.array([0, 1, 2])
    assert list(real_correct(np.array([0, 2, 1]), records, labels)) == [True, True]
    assert list(real_correct(np.array([1, 0, 1]), records, labels)) == [False, False]
    assert list(real_correct(np.array([1]), np.array([1]), labels)) == [True]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"a": 1}, "holds no list; expected real.json"),
        ([], "holds no list"),
        ([[0], 1, [2]], "has 1 as entry 2"),
        ([[0], [3], [2]], r"has \[3\] as entry 2, but a list of class indices in 0..2"),
        ([[0], ["a"], [2]], "entry 2"),
        ([[0], [True], [2]], "entry 2"),
        ([[0], [1]], "labels of 2 images .* has .*ILSVRC2012_val_00000003.JPEG"),
    ],
)
def test_bad_files(source, tmp_path, content, expected):
    with pytest.raises(DataError, match=expected):
        read_real_labels(write(tmp_path, content), source, num_classes=3)


def test_missing_files_text_and_other_names(source, tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_real_labels(str(tmp_path / "no.json"), source, num_classes=3)
    (tmp_path / "real.json").write_text("[[0], [1")
    with pytest.raises(DataError, match="is not JSON"):
        read_real_labels(str(tmp_path / "real.json"), source, num_classes=3)
    other = folders(tmp_path / "other", {"cat": "x.png"})
    with pytest.raises(DataError, match="has .*cat/x.png; evaluate on ImageNet's validation split"):
        read_real_labels(write(tmp_path, [[0]]), other, num_classes=3)


def test_folders_of_imagenet_v2_are_labels_not_names(tmp_path):
    names = tuple(f"n{i:02d}" for i in range(12))
    folders(tmp_path / "v2", dict.fromkeys(map(str, range(12)), "x.png"))
    options = {"path": str(tmp_path), "class_names": names}
    source = open_source("folder", "v2", class_folders="indices", **options)
    folder = [source.describe(i).split("/")[-2] for i in range(12)]
    assert folder[:3] == ["0", "1", "10"]
    assert [source[i]["label"] for i in range(12)] == list(map(int, folder))
    assert source.class_names == names
    with pytest.raises(DataError, match="the classes '0'"):
        open_source("folder", "v2", **options)
    options["class_names"] = names[:10]
    with pytest.raises(DataError, match="class folder '10', .* 0 to 9"):
        open_source("folder", "v2", class_folders="indices", **options)
    (tmp_path / "v2/2").rename(tmp_path / "v2/tench")
    with pytest.raises(DataError, match="class folder 'tench'"):
        open_source("folder", "v2", class_folders="indices", path=str(tmp_path), class_names=names)
