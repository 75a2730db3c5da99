"""Tar shards: the same samples as webdataset writes and reads, and what is refused."""

import io
import json
import pickle
import re
import tarfile

import numpy as np
import pytest

from jaxvision.data.pipeline import train_dataset
from jaxvision.data.source import CorruptImageError, DataError
from jaxvision.data.sources.open_source import open_source
from jaxvision.data.sources.shards import expand_braces, find_shards
from jaxvision.data.tar_reader import TarReader


@pytest.fixture(scope="module")
def images():
    """Bytes of 10 images of different sizes."""
    import PIL.Image

    rng, files = np.random.default_rng(0), []
    for i in range(10):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (8 + i, 12, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(file, "JPEG")
        files.append(file.getvalue())
    return files


def write(path, members, tar_format=tarfile.USTAR_FORMAT):
    """Writes a tar as webdataset's TarWriter does; a member is (name, bytes) or a TarInfo."""
    with tarfile.open(path, "w", format=tar_format) as archive:
        for member in members:
            info, data = member, b""
            if isinstance(member, tuple):
                info, data = tarfile.TarInfo(member[0]), member[1]
                info.size, info.mtime = len(data), 1.5
            archive.addfile(info, io.BytesIO(data))
    return path


def pairs(images, labels, *, first=0, suffix="cls"):
    for i, (image, label) in enumerate(zip(images, labels, strict=True), first):
        yield f"{i:06d}.{suffix}", str(label).encode()
        yield f"{i:06d}.jpg", image


def records(source):
    return [(source[i]["image"], source[i]["label"]) for i in range(len(source))]


def test_shards_of_webdataset(tmp_path, images):
    webdataset = pytest.importorskip("webdataset")
    labels = [3, 0, 1, 2, 0, 1, 3, 3, 2, 1]
    pattern = str(tmp_path / "train-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=4, verbose=0) as writer:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            writer.write({"__key__": f"{i:06d}", "jpg": image, "cls": label, "txt": "a text"})
    shards = "train-{000000..000002}.tar"
    theirs = webdataset.WebDataset(str(tmp_path / shards), shardshuffle=False).to_tuple(
        "jpg", "cls"
    )
    expected = [(image, int(label)) for image, label in theirs]
    assert expected == list(zip(images, labels, strict=True))
    for split in ("train", "train-*", shards, "train-00000[0-2].tar"):
        source = open_source("tar", split, path=str(tmp_path))
        assert records(source) == expected and source.class_names == ("0", "1", "2", "3")
    assert [source.label(i) for i in range(10)] == labels
    assert source.describe(5) == f"{tmp_path}/train-000001.tar/000005.jpg"
    assert source.parts().keys() == {f"train-00000{i}.tar" for i in range(3)}
    assert records(pickle.loads(pickle.dumps(source))) == expected


def test_keys_are_those_of_webdataset(tmp_path):
    pytest.importorskip("webdataset")
    from webdataset.tariterators import base_plus_ext

    from jaxvision.data.sources.tar import _NAME

    names = ["a.jpg", "a.b.jpg", "x.y/a.jpg", "x/.jpg", ".jpg", "a", "x.y/a", "x/a.seg.png", "a/b."]
    for name in names:
        match = _NAME.fullmatch(name)
        assert (match.groups() if match else (None, None)) == base_plus_ext(name)


def test_order_and_resume_are_those_of_any_source(tmp_path, images):
    """Batches of the shards are those of the same images in a folder, and so after a resume."""
    for i, image in enumerate(images):
        place = tmp_path / f"folder/train/{'ab'[i >= 5]}/{i}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(image)
    write(tmp_path / "train-0.tar", pairs(images[:6], [0] * 5 + [1]))
    write(tmp_path / "train-1.tar", pairs(images[6:], [1] * 4, first=6))

    def batches(source, state=None, **options):
        data = train_dataset(
            source, transform=lambda x, rng: x[:8, :8], batch_size=4, seed=7, **options
        )
        if state:
            data.set_state(state)
        some = [next(data) for _ in range(4)]
        state = data.get_state()
        data.close()
        return some, state

    tars = open_source("tar", "train", path=str(tmp_path))
    folder = open_source("folder", "train", path=str(tmp_path / "folder"))
    expected, state = batches(folder)
    more, _ = batches(folder, state)
    for found, wanted in (
        (batches(tars)[0], expected),
        (batches(tars, state)[0], more),
        (batches(tars, state, num_workers=2)[0], more),
    ):
        for one, other in zip(found, wanted, strict=True):
            for key in one:
                np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_headers_are_read_as_tarfile_does(tmp_path, tar_format):
    rng = np.random.default_rng(0)
    long = "x" * 90 + "/" + "y" * 90
    names = ["a.jpg", f"{long}.jpg", "./b/c.jpg", "ä/ö.png"]
    if tar_format != tarfile.USTAR_FORMAT:
        names += ["z" * 300 + ".jpg", "n" * 100, "n" * 101]
    sizes = range(0, 7000, 1000)
    members: list = [(name, rng.bytes(size)) for name, size in zip(names, sizes, strict=False)]
    folder = tarfile.TarInfo("some/")
    folder.type = tarfile.DIRTYPE
    path = write(tmp_path / "a.tar", [*members[:2], folder, *members[2:]], tar_format)
    reader = TarReader(str(path))
    with tarfile.open(path) as archive:
        expected = [
            (member.name.removeprefix("./"), archive.extractfile(member).read())  # type: ignore
            for member in archive
            if member.isfile()
        ]
    assert [(name, reader.read(i)) for i, name in enumerate(reader.names)] == expected
    assert len(expected) == len(members)


def test_labels_of_json_and_names_of_classes(tmp_path, images):
    as_json = [json.dumps(x) for x in ({"label": 1, "more": [2]}, 0, {"label": "1"})]
    write(tmp_path / "train.tar", pairs(images[:3], as_json, suffix="json"))
    source = open_source("tar", "train", path=str(tmp_path))
    assert [source.label(i) for i in range(3)] == [1, 0, 1] and source.class_names == ("0", "1")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    source = open_source("tar", "train", path=str(tmp_path))
    assert [source.label(i) for i in range(3)] == [1, 0, 1] and source.class_names == ("cat", "dog")
    write(tmp_path / "test.tar", pairs(images[:2], ["dog", "cat"]))
    source = open_source("tar", "test", path=str(tmp_path), class_names=("dog", "fox", "cat"))
    assert [source.label(i) for i in range(2)] == [0, 2]
    write(tmp_path / "val.tar", [*pairs(images[:1], [2]), ("b.json", b"{}"), ("b.png", images[0])])
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError, match="val.tar/b.json holds no label"):
        open_source("tar", "val", path=str(tmp_path))


def test_whole_folder_and_shares(tmp_path, images):
    write(tmp_path / "a.tar", pairs(images[:4], [0, 1, 0, 1]))
    (tmp_path / "val").mkdir()
    write(tmp_path / "val/x.tar", pairs(images[4:6], [0, 1]))
    whole = open_source("tar", "", path=str(tmp_path))
    assert len(whole) == 4 and len(open_source("tar", "val", path=str(tmp_path))) == 2
    assert len(open_source("tar", "", path=str(tmp_path / "a.tar"))) == 4
    assert len(open_source("tar", "[:50%]", path=str(tmp_path))) == 2
    assert len(open_source("tar", "a[50%:]", path=str(tmp_path))) == 2


@pytest.mark.parametrize(
    "members, message",
    [
        ([("a.jpg", b"x")], "a.jpg has no label a.cls or .json beside it"),
        ([("a.cls", b"0")], "a has a label, but no image"),
        ([("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"0")], "two images, a.jpg and .png"),
        ([("a.jpg", b"x"), ("a.jpg", b"y"), ("a.cls", b"0")], "holds 'a.jpg' twice"),
        ([("a.jpg", b"x"), ("a.cls", b"\xff")], "a.cls holds no label"),
        ([("a.jpg", b"x"), ("a.cls", b" ")], "a.cls is empty"),
        ([("a.jpg", b"x"), ("a.json", b"[" * 100_000)], "a.json holds no label"),
        ([("a.jpg", b"x"), ("a.json", b'{"label": [1, 2]}')], "a.json holds no label"),
        ([("a.txt", b"x")], "Images of the split 'train' not found.*webdataset"),
        ([("a.jpg", b"x"), ("a.cls", b"7")], "a.cls: the label is '7' where 1 was expected"),
    ],
)
def test_samples_that_are_none(tmp_path, members, message):
    write(tmp_path / "train.tar", members)
    with pytest.raises(DataError, match=message):
        open_source("tar", "train", path=str(tmp_path))


def special(kind, name="a.jpg", **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "member, message",
    [
        (special(tarfile.SYMTYPE, linkname="/etc/passwd"), "'a.jpg' .* is a link"),
        (special(tarfile.LNKTYPE, linkname="b.jpg"), "'a.jpg' .* is a link"),
        (special(tarfile.GNUTYPE_SPARSE), "'a.jpg' .* is sparse"),
        (special(tarfile.CHRTYPE), "'a.jpg' .* is no file"),
        (special(tarfile.FIFOTYPE), "'a.jpg' .* is no file"),
        (("../a.jpg", b"x"), "points out of the archive"),
        (("/a.jpg", b"x"), "points out of the archive"),
    ],
)
def test_hostile_members(tmp_path, member, message):
    path = write(tmp_path / "train.tar", [("0.cls", b"0"), member])
    with pytest.raises(DataError, match=message):
        TarReader(str(path))


def pax(**headers):
    """Returns a member behind a header that says something of it."""
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {key.replace("_", "."): value for key, value in headers.items()}
    return info


def test_hostile_headers(tmp_path):
    for member, message in (
        (pax(size="9" * 18), "no whole tar"),
        (pax(size="-1"), "no whole tar"),
        (pax(path="../x"), "points out"),
        (pax(GNU_sparse_major="1", GNU_sparse_name="x"), "sparse"),
    ):
        path = write(tmp_path / "a.tar", [member], tarfile.PAX_FORMAT)
        with pytest.raises(DataError, match=message):
            TarReader(str(path))
    big = tarfile.TarInfo("a.jpg")
    big.size = 2**40  # declared, not there
    path.write_bytes(big.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(DataError, match="no whole tar"):
        TarReader(str(path))
    big.size = 300 * 2**20  # there, in a file with a hole
    path.write_bytes(big.tobuf(tarfile.GNU_FORMAT))
    with path.open("r+b") as file:
        file.truncate(400 * 2**20)
    with pytest.raises(DataError, match="holds 314,572,800 bytes, more than"):
        TarReader(str(path))


def test_every_cut_is_noticed(tmp_path, images):
    path = write(tmp_path / "train.tar", pairs(images[:2], [0, 1]))
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    for length in (*range(0, end, 100), *range(0, end + 1, 512)):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match="is no whole tar file.*copy it again"):
            TarReader(str(path))
    for place in range(0, 512):  # any byte of the first header that says anything
        if data[place] and not 148 <= place < 156:
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(DataError):
                TarReader(str(path))
    path.write_bytes(data + data)
    with pytest.raises(DataError, match="more behind its end"):
        TarReader(str(path))


def test_a_file_that_shrinks_later_is_corrupt(tmp_path, images):
    path = write(tmp_path / "train.tar", pairs(images[:2], [0, 1]))
    source = open_source("tar", "train", path=str(tmp_path))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CorruptImageError, match="000001.jpg is cut short"):
        source[1]
    path.unlink()
    with pytest.raises(DataError, match="cannot be read .No such file"):
        source[1]


@pytest.mark.parametrize("mode, command", [("gz", "gunzip"), ("bz2", "bunzip2"), ("xz", "unxz")])
def test_compressed_tars(tmp_path, images, mode, command):
    path = tmp_path / f"train-0.tar.{mode}"
    with tarfile.open(path, f"w:{mode}") as archive:
        archive.addfile(tarfile.TarInfo("a.cls"))
    with pytest.raises(DataError, match=f"is compressed.*`{command} {re.escape(str(path))}`"):
        open_source("tar", "train", path=str(tmp_path))


def test_braces_as_the_library_expands_them():
    braceexpand = pytest.importorskip("braceexpand").braceexpand
    for pattern in (
        *("a", "a-{000..015}.tar", "{8..11}", "{08..11}", "{a,b,}-{0..2}", "{3..1}", "{x}"),
        *("a{}", "{}{1..2}"),
    ):
        assert expand_braces(pattern) == list(braceexpand(pattern))


def test_shards_that_are_missing(tmp_path):
    for number in (0, 2):
        (tmp_path / f"a-{number}.tar").touch()
        (tmp_path / f"b-0000{number}-of-00003.tar").touch()
    with pytest.raises(DataError, match="a-1.tar, one of the 3 files"):
        find_shards(str(tmp_path), "a-{0..2}.tar", (".tar",), prepare="")
    with pytest.raises(DataError, match="1 of the 3 files .* such as b-00001-of-00003.tar"):
        find_shards(str(tmp_path), "b", (".tar",), prepare="")
    (tmp_path / "b-00001-of-00003.tar").touch()
    assert len(find_shards(str(tmp_path), "b", (".tar",), prepare="")) == 3
    with pytest.raises(DataError, match="not found .*prepare this"):
        find_shards(str(tmp_path), "c", (".tar",), prepare="prepare this")
