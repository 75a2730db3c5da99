import gzip
import io
import pickle
import struct
import tarfile
import tracemalloc

import numpy as np
import pytest

from jaxvision.data.source import DataError
from jaxvision.data.sources import cifar
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


def python_2(data, labels):
    """Returns a batch as cPickle of Python 2 and numpy 1.3 wrote those of the data set's page."""
    numbers = b"".join(b"K%c" % label for label in labels)
    shape = b"".join(b"M" + struct.pack("<H", n) for n in data.shape) + b"\x86"
    dtype = (
        b"cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03"
        b"U\x06labelsq\x04]q\x05(" + numbers + b"eU\x04dataq\x06"
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08"
        b"K\x00\x85U\x01b\x87Rq\x09(K\x01" + shape + dtype + b"\x89"
        b"T" + struct.pack("<i", data.size) + data.tobytes() + b"tb"
        b"U\tfilenamesq\x0c]q\x0d(U\x05a.pngq\x0er\x00\x01\x00\x00eu."
    )


def test_a_file_of_python_2(tmp_path, rng):
    write(tmp_path, "cifar10", rng)
    data = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
    content = python_2(data, [3, 9])
    expected = pickle.loads(content, encoding="bytes")
    np.testing.assert_array_equal(expected[b"data"], data)
    (tmp_path / FOLDERS["cifar10"] / "test_batch").write_bytes(content)
    source = open_source("cifar10", "test", path=str(tmp_path))
    assert [source[i]["label"] for i in range(2)] == expected[b"labels"] == [3, 9]
    np.testing.assert_array_equal(source[1]["image"], data[1].reshape(3, 32, 32).transpose(1, 2, 0))


class _Evil:
    def __reduce__(self):
        return print, ("executed",)


def batch(labels, **changes):
    data = changes.pop("data", np.zeros((2, 3072), np.uint8))
    return pickle.dumps({b"data": data, b"labels": labels} | changes, 4)


@pytest.mark.parametrize(
    "content, message",
    [
        (pickle.dumps(_Evil()), "refused or broken.*builtins.print"),
        (b"garbage", "refused or broken"),
        (pickle.dumps([1, 2]), "holds a list"),
        (batch([1, 2], data=np.zeros((2, 9), np.uint8)), r"no uint8 array \[n, 3072\]"),
        (batch([], data=np.zeros((0, 3072), np.uint8)), r"no uint8 array \[n, 3072\]"),
        (batch([1, 2], data=np.zeros((2, 3072), np.int64)), r"no uint8 array \[n, 3072\]"),
        (batch([1, 2], data=np.zeros((2, 3072), object)), "not of uint8 or int64"),
        (batch([1]), "2 images, but 1 labels"),
        (batch([1, 10]), "label 10, but there are 10 classes"),
        (batch([1, -1]), "label -1"),
        (batch([1, 2**70]), f"label {2**70}"),
        (batch([1, b"2"]), "no list of labels under b'labels'"),
        (batch([1, [2]]), "no list of labels"),
        (batch(None), "no list of labels"),
        (batch(np.zeros((2, 1), np.int64)), "no list of labels"),
    ],
)
def test_other_pickles_are_refused(tmp_path, rng, capsys, content, message):
    write(tmp_path, "cifar10", rng)
    (tmp_path / FOLDERS["cifar10"] / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source("cifar10", "test", path=str(tmp_path))
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "meta", [{}, {b"label_names": 3}, {b"label_names": [3]}, {b"label_names": [b"\xff"]},
             {b"label_names": []}, {b"label_names": [[b"a"]]}],
)  # fmt: skip
def test_other_metas_are_refused(tmp_path, rng, meta):
    write(tmp_path, "cifar10", rng)
    (tmp_path / FOLDERS["cifar10"] / "batches.meta").write_bytes(pickle.dumps(meta, 4))
    with pytest.raises(DataError, match="batches.meta has no list of class names under b'label_n"):
        open_source("cifar10", "test", path=str(tmp_path))


def test_labels_as_numpy_numbers(tmp_path, rng):
    write(tmp_path, "cifar10", rng)
    for labels in (np.array([4, 7]), [np.int64(4), np.int64(7)]):
        (tmp_path / FOLDERS["cifar10"] / "test_batch").write_bytes(batch(labels))
        source = open_source("cifar10", "test", path=str(tmp_path))
        assert [source[i]["label"] for i in range(2)] == [4, 7]


def test_broken_archives(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(b"not an archive")
    with pytest.raises(DataError, match="not a readable archive"):
        open_source("cifar10", "train", path=str(path))
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("x"), io.BytesIO())
    with pytest.raises(DataError, match="has no file cifar-10-batches-py/"):
        open_source("cifar10", "train", path=str(tmp_path))
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    with pytest.raises(DataError):
        open_source("cifar10", "train", path=str(tmp_path))


def test_archives_of_something_else(tmp_path, monkeypatch):
    path, name = tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py/batches.meta"

    def refused(*members, message):
        with tarfile.open(path, "w:gz") as tar:
            for member, content in members:
                tar.addfile(member, io.BytesIO(content))
        with pytest.raises(DataError, match=message):
            open_source("cifar10", "train", path=str(path))

    link = tarfile.TarInfo(name)
    link.type, link.linkname = tarfile.SYMTYPE, name
    refused((link, b""), message="no whole file")
    many = [(tarfile.TarInfo(f"{i}"), b"") for i in range(1000)]
    refused(*many, (tarfile.TarInfo(name), b""), message="has no file")
    # A header that announces a name of gigabytes, of which the archive has none.
    long_name = tarfile.TarInfo("x")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 2**33
    path.write_bytes(gzip.compress(long_name.tobuf(tarfile.GNU_FORMAT) + bytes(10_000)))
    tracemalloc.start()
    with pytest.raises(DataError):
        open_source("cifar10", "train", path=str(path))
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    path.write_bytes(gzip.compress(path.read_bytes()))  # packed twice, which tarfile undoes
    with pytest.raises(DataError, match="not a readable archive"):
        open_source("cifar10", "train", path=str(path))
    monkeypatch.setattr(cifar, "_MAX_BYTES", 10**6)
    refused((tarfile.TarInfo("x"), b""), (tarfile.TarInfo(name), b""), message="refused or broken")
    path.write_bytes(gzip.compress(bytes(10**6 + 1)))
    with pytest.raises(DataError, match="holds more than 1,000,000 bytes"):
        open_source("cifar10", "train", path=str(path))


def test_missing_data_and_splits(tmp_path):
    with pytest.raises(
        DataError, match=r"cifar-10-python.tar.gz.*www.cs.toronto.edu.*--config=quickstart"
    ):
        open_source("cifar10", "train", path=str(tmp_path))
    with pytest.raises(DataError, match="train and test"):
        open_source("cifar10", "val", path=str(tmp_path))
