"""`jaxvision prepare`: what training reads afterwards, and what a kill leaves behind."""

import functools
import io
import pathlib

import numpy as np
import PIL.Image
import pytest

from jaxvision.__main__ import main
from jaxvision.data import prepare
from jaxvision.data.decode import decode_image
from jaxvision.data.prepare import Preparation, prepare_split
from jaxvision.data.source import DataError
from jaxvision.data.sources.guess import guess_source
from jaxvision.data.sources.open_source import open_source
from jaxvision.errors import InputError


@pytest.fixture
def pets(tmp_path, photo, encode):
    """12 training images of two classes, large and small, two of them corrupt; 2 test images."""
    for split, count in (("train", 12), ("test", 2)):
        for i in range(count):
            path = tmp_path / f"pets/{split}/{('cat', 'dog')[i % 2]}/{i:02}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            side = 40 if i % 3 else 20
            path.write_bytes(encode(photo(side, side * 2, i), quality=95))
    for broken in ("cat/04", "dog/09"):
        path = tmp_path / f"pets/train/{broken}.jpg"
        path.write_bytes(path.read_bytes()[:200])
    return tmp_path / "pets"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(*arguments):
    return main(["prepare", *map(str, arguments)])


def test_training_reads_what_was_prepared(pets, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(pets, out, "--short-side=32", "--shards=3") == 0
    said = capsys.readouterr().out
    assert "train: 10 images in 3 files" in said and "2 corrupt ones left out" in said
    assert f"{pets}/train/cat/04.jpg: " in said and f"{pets}/train/dog/09.jpg: " in said
    assert "test: 2 images in 2 files" in said
    for split in ("train", "test"):
        old = open_source("folder", split, path=str(pets))
        new = open_source("array_record", split, path=str(out))
        assert new.class_names == old.class_names == ("cat", "dog")
        by_name = {new.key(i): new[i] for i in range(len(new))}
        for i in range(len(old)):
            if old.key(i) in by_name:
                check(old[i], by_name.pop(old.key(i)))
        assert not by_name


def check(before, after):
    """Compares with Pillow's resize and JPEG; small images are the very files."""
    picture = PIL.Image.open(io.BytesIO(before["image"]))
    assert after["label"] == before["label"]
    if picture.height <= 32:
        assert after["image"] == before["image"]
        return
    file = io.BytesIO()
    picture.resize((64, 32), PIL.Image.Resampling.BILINEAR).save(file, "JPEG", quality=90)
    found, wanted = (decode_image(x).astype(int) for x in (after["image"], file.getvalue()))
    assert found.shape == (32, 64, 3) and np.abs(found - wanted).max() <= 3


@pytest.mark.parametrize("form", ["array_record", "tar"])
def test_workers_and_kills_change_no_byte(pets, tmp_path, form, monkeypatch):
    options = Preparation(short_side=32, shards=4, form=form)
    source = open_source("folder", "train", path=str(pets))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = prepare_split(source, whole, "train", options, workers=1)
    assert done.records == 10 and [name[-10:] for name, _ in done.corrupt] == [
        "cat/04.jpg",
        "dog/09.jpg",
    ]
    calls = []
    real = prepare._prepared

    def interrupted(*arguments):
        calls.append(arguments[-1])
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_prepared", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_split(source, killed, "train", options, workers=1)
    there = sorted(killed.glob(f"*.{form}"))
    assert 0 < len(there) < 4  # whole ones only
    for path in there:
        assert path.read_bytes() == (whole / path.name).read_bytes()
    # What SIGKILL leaves: a half-written file, and a whole one that is not listed yet.
    (killed / f".train-00003-of-00004.{form}.1.{form}").write_bytes(b"half")
    unlisted = killed / f"train-00003-of-00004.{form}"
    unlisted.write_bytes(b"of an older call")
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_prepared", lambda *a: calls.append(a[-1]) or real(*a))
        again = prepare_split(source, killed, "train", options, workers=3)
    assert len(calls) == 3 * (4 - len(there)) and list(map(tuple, again.corrupt)) == done.corrupt
    assert contents(killed) == contents(whole)


def test_tars_are_read_by_us_and_by_webdataset(pets, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    out = tmp_path / "out"
    assert run(pets, out, "--short-side=32", "--shards=2", "--form=tar") == 0
    source = open_source("tar", "train", path=str(out))
    assert source.class_names == ("cat", "dog") and len(source) == 10
    shards = str(out / "train-{00000..00001}-of-00002.tar")
    theirs = webdataset.WebDataset(shards, shardshuffle=False).to_tuple("jpg", "cls")
    ours = [(source[i]["image"], source[i]["label"]) for i in range(10)]
    assert [(image, int(label)) for image, label in theirs] == ours
    assert len({source.describe(i).rpartition("/")[2] for i in range(10)}) == 10


def test_pixels_that_were_never_encoded(tmp_path):
    source = open_source("shapes", "train", shapes={"num_train": 3}, image_size=16)
    for form in prepare.FORMS:
        out = tmp_path / form
        prepare_split(source, out, "train", Preparation(form=form), workers=2)
        copy = open_source(form, "train", path=str(out))
        for i in range(3):
            image = copy[i]["image"]
            pixels = image if isinstance(image, np.ndarray) else decode_image(image)
            np.testing.assert_array_equal(pixels, source[i]["image"])
            assert copy[i]["label"] == source[i]["label"]


@pytest.mark.parametrize("side", [20, 60])
@pytest.mark.parametrize("turns", [False, True])
def test_exif_and_colour_spaces_are_as_in_training(photo, encode, side, turns):
    options = Preparation(short_side=24, exif_orientation=turns)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned = encode(photo(side, side * 2), exif=exif, quality=95)
    expected = decode_image(turned, exif_orientation=turns)
    image = prepare.smaller(turned, options)
    for later in (False, True):  # decided once, whatever training asks for
        found = decode_image(bytes(image), exif_orientation=later)
        assert (found.shape[0] > found.shape[1]) == turns
        small = PIL.Image.fromarray(expected).resize(found.shape[1::-1], PIL.Image.Resampling.BOX)
        assert (
            np.abs(found.astype(int) - np.asarray(small)).mean() < 8
        )  # JPEG halves the colours; a turn is 60
    for mode in ("L", "CMYK", "RGBA", "P"):
        picture = PIL.Image.fromarray(photo(side, side)).convert(mode)
        data = encode(picture, "TIFF")
        image = prepare.smaller(data, options)
        found = decode_image(bytes(image)).astype(int)
        expected = PIL.Image.fromarray(decode_image(data)).resize(found.shape[1::-1])
        assert (
            np.abs(found - np.asarray(expected)).mean() < 8
        )  # JPEG halves the colours; a turn is 60


def test_a_folder_of_something_else_is_refused(pets, tmp_path):
    source = open_source("folder", "train", path=str(pets))
    call = functools.partial(prepare_split, source, tmp_path / "out", "train", workers=1)
    call(Preparation(short_side=32, shards=2))
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match="other values of 'quality'; give the same, or another"):
        call(Preparation(short_side=32, shards=2, quality=80))
    (pets / "train/cat/new.jpg").write_bytes((pets / "train/cat/00.jpg").read_bytes())
    source = open_source("folder", "train", path=str(pets))
    with pytest.raises(InputError, match="of other data: .* has 13 examples instead of 12"):
        prepare_split(
            source, tmp_path / "out", "train", Preparation(short_side=32, shards=2), workers=1
        )
    assert contents(tmp_path / "out") == before
    (tmp_path / "out/train.json").write_text("{}")
    with pytest.raises(InputError, match="train.json is not what this command writes"):
        call(Preparation(short_side=32, shards=2))


def test_all_corrupt(pets, tmp_path):
    for path in (pets / "train").rglob("*.jpg"):
        path.write_bytes(b"no image")
    source = open_source("folder", "train", path=str(pets))
    with pytest.raises(DataError, match="All 12 images of the split train are corrupt, such as"):
        prepare_split(source, tmp_path / "out", "train", Preparation(), workers=1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("none", "out"), "There is no folder or file none; give one"),
        (("pets", "out", "--train-split=val"), "The split 'val' not found"),
        (("pets", "out", "--quality=101"), "--quality is 1 to 100, got 101"),
        (("pets", "s3://bucket"), "is a URL"),
        (("pets", "out", "--train-split=test[:60%]", "--eval-split=test"), "images in common"),
    ],
)
def test_wrong_arguments(pets, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err and not pathlib.Path("out").exists()


def test_kinds_of_data(tmp_path):
    for names, expected in (
        (("train.zip",), "folder"),
        (("train/", "test/"), "folder"),
        (("train.csv", "images/"), "list"),
        (("train-0.tar", "classes.txt"), "tar"),
        (("train.tar.gz",), "tar"),
        (("train.array_record", "train.json"), "array_record"),
        (("train.parquet",), "hf"),
        (("dataset_dict.json", "train/"), "hf"),
        (("cifar-10-python.tar.gz",), "cifar10"),
    ):
        folder = tmp_path / names[0].replace("/", "")
        for name in names:
            path = folder / name
            path.mkdir(parents=True) if name[-1] == "/" else folder.mkdir(exist_ok=True)
            path.is_dir() or path.touch()
        name, path = guess_source(str(folder))
        assert (name, path) == (
            (f"hf:{folder}", "") if expected == "hf" else (expected, str(folder))
        )
    assert guess_source("tfds:mnist") == ("tfds:mnist", "")
    assert guess_source("x", "folder") == ("folder", "x")
    (tmp_path / "train.csv/train.tar").touch()
    with pytest.raises(DataError, match="several kinds of data: say which, --data=list or --data="):
        guess_source(str(tmp_path / "train.csv"))
