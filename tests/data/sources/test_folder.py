import concurrent.futures
import os
import pathlib
import pickle
import shutil
import struct
import subprocess
import zipfile

import numpy as np
import pytest

from jaxvision.data.file_tree import list_files
from jaxvision.data.image_files import find_images
from jaxvision.data.source import CorruptImageError, DataError
from jaxvision.data.sources.folder import FolderSource
from jaxvision.data.sources.open_source import open_both, open_source
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


def test_a_folder_of_photos_without_classes(folder, tmp_path):
    """Only where no label is wanted; then images may lie at any depth."""
    photos = tmp_path / "photos"
    shutil.copytree(folder / "train/dog", photos)
    shutil.copytree(folder / "train/cat", photos / "2020/may")
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match="lies in no class folder"):
        open_source("folder", "", path=str(photos))
    source = open_source("folder", "", path=str(photos), labelled=False)
    count = len(FolderSource(str(folder), "train"))
    assert len(source) == count and {source.label(i) for i in range(count)} == {0}
    train, evaluation = open_both("folder", "", "50%", path=str(photos), labelled=False)
    assert len(train) + len(evaluation) == count and len(evaluation) > 0
    again = open_source("folder", "", path=str(photos / "2020"), class_names=source.class_names,
                        labelled=False)  # fmt: skip
    assert again.class_names == source.class_names and again[0]["label"] == 0
    # Classes that are there stay: features are judged by them.
    source = open_source("folder", "train", path=str(folder), labelled=False)
    assert source.class_names == ("cat", "dog")


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


def pack(files, path):
    """Writes a zip of files by name; a name that ends with a slash is a folder."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"fox/": b""}, "fox holds no image; fill or remove it"),
        ({"fox/a/": b""}, "fox holds no image; fill or remove it"),
        ({"fox/.DS_Store": b"x"}, "fox holds no image; fill or remove it"),
        (
            {"fox/1.raw": b"x", "fox/deep/2.RAW": b"x", "fox/3": b"x"},
            r"fox holds no image, only files .* \(2 .raw, 1 without a suffix\); fill or remove it",
        ),
    ],
)
def test_no_class_is_lost(folder, more, message, packed):
    files = {p.relative_to(folder / "train").as_posix(): p for p in (folder / "train").rglob("*.*")}
    files = {name: path.read_bytes() for name, path in files.items()} | more
    if packed:
        pack(files, folder / "packed.zip")
        pack({f"all/{name}": content for name, content in files.items()}, folder / "whole.zip")
        places = [(folder, "packed.zip"), (folder / "whole.zip", "all")]
    else:
        for name, content in files.items():
            path = folder / "train" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if name.endswith("/") else path.write_bytes(content)
        places = [(folder, "train")]
    for path, split in places:
        with pytest.raises(DataError, match=message):
            FolderSource(str(path), split)


def test_a_class_may_be_missing_in_one_of_several_zips(folder):
    for n, name in enumerate(("cat", "dog")):
        image = (folder / "test/dog/f.jpg").read_bytes()
        pack({"cat/": b"", "dog/": b"", f"{name}/1.jpg": image}, folder / f"part_{n}.zip")
    assert len(FolderSource(str(folder), "part_*.zip")) == 2


def test_what_is_left_out_is_counted(folder, caplog):
    for name in ("cat/notes.txt", "cat/x.RAW", "dog/y.raw", "dog/.hidden", "readme"):
        (folder / "train" / name).write_bytes(b"no image")
    packed = zip_folder(folder / "train", folder / "packed.zip")
    for split in ("train", packed.name):
        caplog.clear()
        assert len(FolderSource(str(folder), split)) == 5
        assert "4 of 9 files (2 .raw, " in caplog.text
        counts = caplog.text.strip().removesuffix(").").rpartition("(")[2].split(", ")
        assert counts[0] == "2 .raw" and set(counts[1:]) == {"1 .txt", "1 without a suffix"}


def test_linked_folders_are_followed_but_not_in_a_circle(folder, tmp_path):
    (folder / "train/fox").symlink_to(folder / "test/dog")
    (folder / "train/cat/more").symlink_to(folder / "train/dog")
    (folder / "train/cat/loop").symlink_to(folder / "train/cat")
    (folder / "train/dog/up").symlink_to(folder)
    source = FolderSource(str(folder), "train")
    names = {source.describe(i).split("/train/", 1)[1] for i in range(len(source))}
    assert {"fox/f.jpg", "cat/more/d.jpg", "dog/d.jpg"} <= names
    assert not any("loop" in name or name.count("up/") > 1 for name in names)
    found = {image.name.split("/train/", 1)[1] for image in find_images(str(folder / "train"))}
    assert found == names


def test_names_in_a_zip_are_those_that_unzip_writes(folder, tmp_path):
    image = (folder / "test/dog/f.jpg").read_bytes()
    names = ["./cat/1.jpg", "dog//./2.jpg", "bär/ü.jpg", "dog\\3.jpg", "cat\\more\\4.jpg"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.create_system = 0 if "\\" in name else 3  # DOS: so does .NET
            archive.writestr(info, image)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # UTF-8 without its flag
        start = data.index("bär".encode()) if header[2] == 3 else data.rindex("bär".encode())
        data[data.rindex(header, 0, start) + flags + 1] = 0
    (tmp_path / "a.zip").write_bytes(data)
    unzip = ["unzip", "-q", str(tmp_path / "a.zip"), "-d", str(tmp_path / "out")]
    subprocess.run(unzip, env={**os.environ, "LC_ALL": "C.UTF-8"}, capture_output=True)
    written = sorted(list_files(str(tmp_path / "out"))[0])
    assert written == ["bär/ü.jpg", "cat/1.jpg", "cat/more/4.jpg", "dog/2.jpg", "dog/3.jpg"]
    reader = ZipReader(str(tmp_path / "a.zip"))
    assert sorted(reader.names) == written
    assert FolderSource(str(tmp_path), "a").class_names == ("bär", "cat", "dog")


def test_missing_data_says_what_to_do(tmp_path):
    (tmp_path / "train/cat").mkdir(parents=True)
    for path, split in ((tmp_path / "nowhere", "train"), (tmp_path, "val"), ("", "train")):
        with pytest.raises(DataError) as error:
            open_source("folder", split, path=str(path))
        assert str(path) in str(error.value) and split in str(error.value)
        assert "<split>/<class>/<image>" in str(error.value)
        assert "--config=quickstart" in str(error.value)


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


@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_around_the_classes_is_no_class(folder, tmp_path, zipped):
    """Where the data had three classes, a run would have one, and be right every time."""
    around = tmp_path / "around"
    shutil.move(folder / "train", around / "train/photos")
    place = around / "train"
    if zipped:
        place = pathlib.Path(shutil.make_archive(str(around / "train"), "zip", around / "train"))
        shutil.rmtree(around / "train")
    with pytest.raises(DataError, match=f"'photos', around .* path {place} and the split photos"):
        open_source("folder", "train", path=str(around))
    assert len(open_source("folder", "photos", path=str(place)).class_names) > 1
