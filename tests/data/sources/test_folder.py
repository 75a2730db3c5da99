import concurrent.futures
import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest

from jaxvision.data.source import CorruptImageError, DataError
from jaxvision.data.sources.folder import FolderSource
from jaxvision.data.sources.open_source import open_source
from jaxvision.data.zip_reader import ZipReader


def contents(source):
    """Returns what a source holds, without where it lies."""
    return [(source[i]["image"], source[i]["label"]) for i in range(len(source))]


def zip_folder(folder, path, *, inside="", compression=zipfile.ZIP_STORED, only=""):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            name = file.relative_to(folder).as_posix()
            if file.is_file() and name.startswith(only):
                archive.write(file, inside + name)
    return path


def test_directory(folder):
    source = open_source("folder", "train", path=str(folder))
    assert source.class_names == ("cat", "dog")
    assert [source[i]["label"] for i in range(len(source))] == [0, 0, 0, 1, 1]
    assert source.describe(0).endswith("pets/train/cat/a.JPEG")
    assert source[0]["image"] == (folder / "train/cat/a.JPEG").read_bytes()
    assert source.describe(2).endswith("cat/deep/er/c.jpg")
    whole = open_source("folder", "", path=str(folder / "train"))
    assert contents(whole) == contents(source)


def test_other_files_are_left_out(folder):
    before = contents(FolderSource(str(folder), "train"))
    for name in ("cat/notes.txt", "cat/.hidden.jpg", "__MACOSX/cat/._a.jpg", ".git/x.jpg", "a.csv"):
        file = folder / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"no image")
    assert contents(FolderSource(str(folder), "train")) == before
    packed = zip_folder(folder / "train", folder / "packed.zip")
    assert contents(FolderSource(str(folder), packed.name)) == before


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_may_stand_where_a_folder_may(folder, tmp_path, compression):
    expected = contents(FolderSource(str(folder), "train"))
    train = folder / "train"
    root = tmp_path / "zips"
    root.mkdir()
    zip_folder(train, root / "train.zip", compression=compression)
    zip_folder(train, root / "wrapped.zip", inside="wrapped/", compression=compression)
    zip_folder(folder, root / "all.zip", compression=compression)
    zip_folder(train, root / "part_0.zip", only="cat", compression=compression)
    zip_folder(train, root / "part_1.zip", only="dog", compression=compression)
    for path, split in (
        (root, "train"),
        (root, "train.zip"),
        (root, "wrapped"),
        (root / "all.zip", "train"),
        (root, "part_*.zip"),
        (root / "train.zip", ""),
    ):
        source = FolderSource(str(path), split)
        assert contents(source) == expected, (path, split)
        assert source.class_names == ("cat", "dog")
        assert ".zip/" in source.describe(0)


def test_eval_split_uses_the_classes_of_training(folder):
    assert open_source("folder", "test", path=str(folder)).class_names == ("dog",)
    names = open_source("folder", "train", path=str(folder)).class_names
    source = open_source("folder", "test", path=str(folder), class_names=names)
    assert source[0]["label"] == 1 and source.class_names == names
    shutil.copytree(folder / "test/dog", folder / "test/fox")
    with pytest.raises(DataError, match="'fox'.*not among the 2 classes"):
        open_source("folder", "test", path=str(folder), class_names=names)


def test_mistakes_in_a_folder(folder):
    (folder / "train/fox").mkdir()
    with pytest.raises(DataError, match="train/fox holds no image"):
        FolderSource(str(folder), "train")
    (folder / "train/fox").rmdir()
    shutil.copy(folder / "train/dog/d.jpg", folder / "train/stray.jpg")
    with pytest.raises(DataError, match="stray.jpg lies in no class folder"):
        FolderSource(str(folder), "train")
    (folder / "test.txt").write_text("")
    with pytest.raises(DataError, match="neither a folder nor a .zip"):
        FolderSource(str(folder), "test.txt")
    source = FolderSource(str(folder), "test")
    (folder / "test/dog/f.jpg").unlink()
    with pytest.raises(DataError, match="f.jpg was listed but cannot be read"):
        source[0]


def test_missing_data_says_what_to_do(tmp_path):
    (tmp_path / "train/cat").mkdir(parents=True)
    for path, split in ((tmp_path / "nowhere", "train"), (tmp_path, "val"), ("", "train")):
        with pytest.raises(DataError) as error:
            open_source("folder", split, path=str(path))
        assert str(path) in str(error.value) and split in str(error.value)
        assert "<split>/<class>/<image>" in str(error.value)
        assert "configs/quickstart.py" in str(error.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_is_read_from_many_threads_and_after_pickling(tmp_path, compression):
    blobs = [np.random.default_rng(i).bytes(5_000 + i) for i in range(50)]
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        for i, blob in enumerate(blobs):
            archive.writestr(f"c/{i}.png", blob)
    reader = ZipReader(str(tmp_path / "a.zip"))
    for each in (reader, pickle.loads(pickle.dumps(reader))):
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            assert list(threads.map(lambda i, r=each: r.read(i % 50), range(500))) == blobs * 10
    assert len(pickle.dumps(reader)) < 10_000


@pytest.mark.parametrize(
    "name", ["../c/1.png", "c/../../1.png", "/c/1.png", "C:/c/1.png", "c\\..\\..\\1.png"]
)
def test_names_that_leave_the_archive_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(DataError, match="points out of the archive"):
        ZipReader(str(tmp_path / "a.zip"))


def test_hostile_and_broken_zips(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c/1.png", bytes(1_000_000))
    good = path.read_bytes()
    directory = good.index(b"PK\x01\x02")

    def changed(offset, value):
        path.write_bytes(good[:offset] + value + good[offset + len(value) :])
        return ZipReader(str(path))

    with pytest.raises(DataError, match="encrypted"):
        changed(directory + 8, b"\x01")
    with pytest.raises(DataError, match="compression method 12"):
        changed(directory + 10, b"\x0c")
    with pytest.raises(DataError, match="more than the 268,435,456"):
        changed(directory + 24, struct.pack("<I", 2**31))
    # A bomb announces little and unpacks to much; no more than it announced is unpacked.
    with pytest.raises(CorruptImageError, match="checksum"):
        changed(directory + 24, struct.pack("<I", 100)).read(0)
    with pytest.raises(CorruptImageError, match="checksum"):
        changed(directory + 16, b"\0\0\0\0").read(0)
    with pytest.raises(CorruptImageError, match="local header"):
        changed(0, b"XX").read(0)
    with pytest.raises(CorruptImageError):
        changed(40, b"\xff" * 20).read(0)
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match="not a readable zip"):
        ZipReader(str(path))


@pytest.mark.parametrize("number", [2**34, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("field", ["file_size", "compress_size", "header_offset"])
def test_sizes_and_offsets_of_zip64_are_checked(tmp_path, field, number):
    path = str(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("c/1.png", b"x")
        setattr(archive.filelist[0], field, number)  # before the central directory is written
    with pytest.raises(DataError, match=f"'c/1.png' .*{number:,}.*(take it out|copy it again)"):
        ZipReader(path)


def test_an_offset_before_the_file_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("c/1.png", b"x")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, len(data) - 6, archive.start_dir + 100)
    path.write_bytes(data)
    with pytest.raises(DataError, match="copy it again"):
        ZipReader(str(path))
