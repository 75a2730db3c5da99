import io
import pickle
import tarfile

import numpy as np
import pytest

from jaxvision.data.source import DataError
from jaxvision.data.sources.open_source import open_source

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}


def write(root, name, rng, images_per_file=4):
    """Writes files in the layout of the data set's page; returns the images of `train`."""
    folder = root / FOLDERS[name]
    folder.mkdir()
    num_classes = int(name.removeprefix("cifar"))
    meta = {b"label_names": [f"class{i}".encode() for i in range(num_classes)]}
    files = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    key = b"labels"
    if name == "cifar100":
        meta = {b"fine_label_names": meta[b"label_names"], b"coarse_label_names": [b"x"] * 20}
        files, key = ["train", "test"], b"fine_labels"
    (folder / ("meta" if name == "cifar100" else "batches.meta")).write_bytes(pickle.dumps(meta, 2))
    images = []
    for file in files:
        data = rng.integers(0, 256, (images_per_file, 3072), dtype=np.uint8)
        labels = [(i * 7) % num_classes for i in range(images_per_file)]
        batch = {b"data": data, key: labels, b"batch_label": b"x"}
        # Protocol 2 with numpy 1's module names, which is what the real files have.
        text = pickle.dumps(batch, 2).replace(b"numpy._core", b"numpy.core")
        (folder / file).write_bytes(text)
        images.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return np.concatenate(images[:-1])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_folder_and_archive(tmp_path, rng, name):
    expected = write(tmp_path, name, rng)
    folder = tmp_path / FOLDERS[name]
    with tarfile.open(tmp_path / ARCHIVES[name], "w:gz") as tar:
        tar.add(folder, FOLDERS[name])
    (tmp_path / "other").mkdir()
    (tmp_path / ARCHIVES[name]).rename(tmp_path / "other" / ARCHIVES[name])
    for path in (folder, tmp_path, tmp_path / "other", tmp_path / "other" / ARCHIVES[name]):
        source = open_source(name, "train", path=str(path))
        assert len(source) == len(expected)
        for i in range(len(source)):
            np.testing.assert_array_equal(source[i]["image"], expected[i])
            assert source[i]["label"] == (i % 4) * 7 % int(name.removeprefix("cifar"))
        assert source.class_names[1] == "class1"
        test = open_source(name, "test", path=str(path), class_names=source.class_names)
        assert len(test) == 4 and test.describe(2) == f"{name} test image 2"


class _Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    "content, message",
    [
        (pickle.dumps(_Evil()), "refused or broken.*builtins.print"),
        (b"garbage", "refused or broken"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({b"data": np.zeros((2, 9), np.uint8)}, 2), r"no uint8 array \[n, 3072\]"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, 2), "but 1 labels"),
    ],
)
def test_other_pickles_are_refused(tmp_path, rng, capsys, content, message):
    write(tmp_path, "cifar10", rng)
    (tmp_path / FOLDERS["cifar10"] / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source("cifar10", "test", path=str(tmp_path))
    assert "executed" not in capsys.readouterr().out


def test_broken_archives(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(b"not an archive")
    with pytest.raises(DataError, match="not a readable archive"):
        open_source("cifar10", "train", path=str(path))
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("x"), io.BytesIO())
    with pytest.raises(DataError, match="has no file cifar-10-batches-py/"):
        open_source("cifar10", "train", path=str(tmp_path))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError):
        open_source("cifar10", "train", path=str(tmp_path))


def test_missing_data_and_splits(tmp_path):
    with pytest.raises(
        DataError, match=r"cifar-10-python.tar.gz.*www.cs.toronto.edu.*configs/quickstart.py"
    ):
        open_source("cifar10", "train", path=str(tmp_path))
    with pytest.raises(DataError, match="train and test"):
        open_source("cifar10", "val", path=str(tmp_path))
