"""Captioned images on disk: COCO's layout and Flickr's, and everything that may be wrong there."""

import dataclasses
import json
import pathlib
import pickle
import shutil
import zipfile
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest

from jaxvision.data.captions.caption_source import CaptionSubset
from jaxvision.data.captions.open_captions import open_caption_source
from jaxvision.errors import InputError

NAMES = ("c.jpg", "a.jpg", "b.jpg")
IDS = (30, 10, 20)
TEXTS = {30: ["Two dogs .", "dogs play"], 10: ["A cat", "a black cat", "cat!"], 20: ["A red bus."]}


def coco(**changes) -> str:
    """Returns the text of a file of captions."""
    content = {
        "info": {},
        "images": [{"id": i, "file_name": n, "height": 8} for i, n in zip(IDS, NAMES, strict=True)],
        "annotations": [
            {"id": 100 * i + k, "image_id": i, "caption": text}
            for k in range(3)  # not image by image
            for i in sorted(TEXTS)
            for text in TEXTS[i][k : k + 1]
        ],
    }
    content = {key: value for key, value in (content | changes).items() if value is not None}
    return json.dumps(content)


def token_lines() -> str:
    return "".join(
        f"{name}#{k}\t{text}\n"
        for i, name in zip(IDS, NAMES, strict=True)
        for k, text in enumerate(TEXTS[i])
    )


def pictures(folder: pathlib.Path, names=NAMES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.full((8, 8, 3), 40 * number, np.uint8)
        PIL.Image.fromarray(pixels).save(folder / name)


def pack(folder: pathlib.Path, path: pathlib.Path, prefix: str = "") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.jpg")):
            archive.write(file, f"{prefix}{file.relative_to(folder)}")
    shutil.rmtree(folder)


@pytest.fixture
def data(tmp_path):
    """COCO's layout: captions_train.json and the images in train."""
    (tmp_path / "captions_train.json").write_text(coco())
    pictures(tmp_path / "train")
    return tmp_path


@pytest.fixture
def flickr(tmp_path):
    """Flickr8k's layout, with a table for all splits."""
    (tmp_path / "Flickr8k.token.txt").write_text(token_lines())
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("b.jpg\na.jpg\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("c.jpg")
    pictures(tmp_path / "Flicker8k_Dataset")
    return tmp_path


def check(source, order=IDS):
    assert len(source) == len(order)
    for copy in (source, pickle.loads(pickle.dumps(source))):
        for index, number in enumerate(order):
            example = copy[index]
            assert example["image_id"] == copy.image_id(index) == number
            assert example["captions"] == copy.captions(index) == tuple(TEXTS[number])
            name = NAMES[IDS.index(number)]
            assert copy.describe(index).endswith(f"/{name}")
            assert example["image"][:2] == b"\xff\xd8"
    assert list(source.all_captions()) == [text for i in order for text in TEXTS[i]]


@pytest.mark.parametrize(
    "layout", ["train", "train.zip", "images_train", "my_train.zip", "images", "images.zip"]
)
def test_coco_in_all_places(data, layout):
    train = data / "train"
    if layout.endswith(".zip"):
        pack(train, data / layout)
    else:
        train.rename(data / layout)
    check(open_caption_source("coco_captions", "train", path=str(data)))
    (data / "annotations").mkdir()
    (data / "captions_train.json").rename(data / "annotations/captions_train.json")
    check(open_caption_source("coco_captions", "train", path=str(data)))
    file = str(data / "annotations/captions_train.json")
    source = open_caption_source("coco_captions", file, path=str(data), images=layout)
    check(source)
    check(open_caption_source("coco_captions", file, path="/", images=str(data / layout)))


def test_images_may_lie_deeper_than_the_captions_say(data):
    pack(data / "train", data / "train.zip", prefix="train2014/deep/")
    check(open_caption_source("coco_captions", "train", path=str(data)))
    images = [{"id": i, "file_name": f"my/train/{n}"} for i, n in zip(IDS, NAMES, strict=True)]
    (data / "captions_train.json").write_text(coco(images=images))
    source = open_caption_source("coco_captions", "train", path=str(data))
    assert source.describe(0) == f"{data}/train.zip/train2014/deep/c.jpg"


def test_the_path_decides_between_equal_names(data):
    pictures(data / "train/other", ["c.jpg"])
    images = [{"id": 1, "file_name": "c.jpg"}, {"id": 2, "file_name": "other/c.jpg"}]
    captions = [{"image_id": i, "caption": "a"} for i in (1, 2)]
    (data / "captions_train.json").write_text(coco(images=images, annotations=captions))
    source = open_caption_source("coco_captions", "train", path=str(data))
    assert source.describe(0) == f"{data}/train/c.jpg"
    assert source.describe(1) == f"{data}/train/other/c.jpg"
    images[0]["file_name"] = "elsewhere/c.jpg"
    (data / "captions_train.json").write_text(coco(images=images, annotations=captions))
    with pytest.raises(InputError, match="has 2 images c.jpg, .*name it as elsewhere/c.jpg"):
        open_caption_source("coco_captions", "train", path=str(data))


@pytest.mark.parametrize("packed", [False, True])
def test_files_that_captions_name_are_opened_whatever_their_suffix(data, packed):
    names = ("c.RAW", "a", ".b.jpg")
    (data / "train").rename(data / "old")
    (data / "train").mkdir()
    for old, new in zip(NAMES, names, strict=True):
        (data / "old" / old).rename(data / "train" / new)
    shutil.rmtree(data / "old")
    images = [{"id": i, "file_name": n} for i, n in zip(IDS, names, strict=True)]
    (data / "captions_train.json").write_text(coco(images=images))
    if packed:
        with zipfile.ZipFile(data / "train.zip", "w") as archive:
            for name in names:
                archive.write(data / "train" / name, name)
        shutil.rmtree(data / "train")
    source = open_caption_source("coco_captions", "train", path=str(data))
    assert [source.describe(i).rsplit("/", 1)[1] for i in range(3)] == list(names)
    assert all(source[i]["image"][:2] == b"\xff\xd8" for i in range(3))


def test_images_without_captions_are_left_out(data, caplog):
    annotations = [{"image_id": 30, "caption": text} for text in TEXTS[30]]
    (data / "captions_train.json").write_text(coco(annotations=annotations))
    check(open_caption_source("coco_captions", "train", path=str(data)), (30,))
    assert "2 of the 3 images" in caplog.text and "the first is a.jpg" in caplog.text


def test_missing_images_can_be_skipped(data, caplog):
    (data / "train/a.jpg").unlink()
    source = open_caption_source("coco_captions", "train", path=str(data), skip_missing=True)
    check(source, (30, 20))
    assert caplog.text.count("1 of the 3 images") == 1


def test_flickr_splits(flickr):
    # An image's number is its place in the table, whatever the split.
    def renumber(source):
        return [IDS[source.image_id(i)] for i in range(len(source))]

    for split, order in (
        ("train", [20, 10]),
        ("dev", [30]),
        ("val", [30]),
        ("Flickr_8k.trainImages.txt", [20, 10]),
        ("all", list(IDS)),
    ):
        source = open_caption_source("flickr", split, path=str(flickr))
        assert renumber(source) == order
        for index, number in enumerate(order):
            assert source.captions(index) == tuple(TEXTS[number])
            assert source.describe(index).endswith(f"/{NAMES[IDS.index(number)]}")


def test_flickr_layouts(flickr):
    (flickr / "Flickr8k_text").mkdir()
    for file in flickr.glob("*.txt"):
        file.rename(flickr / "Flickr8k_text" / file.name)
    pack(flickr / "Flicker8k_Dataset", flickr / "Flickr8k_Dataset.zip", "Flicker8k_Dataset/")
    with zipfile.ZipFile(flickr / "Flickr8k_Dataset.zip", "a") as archive:
        archive.writestr("__MACOSX/Flicker8k_Dataset/._a.jpg", b"")
    assert len(open_caption_source("flickr", "train", path=str(flickr))) == 2
    # A split's own table, in the order of its lines; and a list without suffixes.
    (flickr / "val.token.txt").write_text(token_lines())
    source = open_caption_source("flickr", "val", path=str(flickr), images="Flickr8k_Dataset.zip")
    assert [source.image_id(i) for i in range(3)] == [0, 1, 2]
    (flickr / "mine.txt").write_text("\na\n\nb\n")
    assert len(open_caption_source("flickr", "mine", path=str(flickr))) == 2


def test_subset(data):
    source = open_caption_source("coco_captions", "train", path=str(data))
    check(CaptionSubset(source, [2, 0]), (20, 30))


def write(name: str, content: str | bytes) -> Callable[[pathlib.Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def captions_file(**changes) -> Callable[[pathlib.Path], object]:
    return write("captions_train.json", coco(**changes))


def remove(*names: str) -> Callable[[pathlib.Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def annotation(**fields) -> list:
    return [*json.loads(coco())["annotations"], fields]


@dataclasses.dataclass
class Row:
    """One wrong input: what is done to good data, and what the sentence must say."""

    id: str
    change: Callable[[pathlib.Path], object]
    expected: str
    options: dict = dataclasses.field(default_factory=dict)


def nothing(folder: pathlib.Path) -> None:
    """The options are wrong."""


COCO_ROWS = [
    Row("no file", remove("captions_train.json"), "captions of the split 'train' not found"),
    Row("other split", nothing, "captions of the split 'test' not found", {"split": "test"}),
    Row("no path", nothing, "not found in config.data.path, which is empty", {"path": ""}),
    Row("no json", write("captions_train.json", "a dog"), "captions_train.json is not JSON"),
    Row("cut", write("captions_train.json", coco()[:99]), "captions_train.json is not JSON"),
    Row("binary", write("captions_train.json", b"\xff\xd8"), "captions_train.json is not JSON"),
    Row("a list", write("captions_train.json", "[]"), "captions_train.json holds a list"),
    Row("no images", captions_file(images=None), 'has no list "images"; expected the COCO layout'),
    Row("no annotations", captions_file(annotations=None), 'has no list "annotations"; expected'),
    Row("none", captions_file(annotations=[]), "captions_train.json has no captions"),
    Row(
        "boxes",
        captions_file(annotations=[{"image_id": 10, "bbox": [0, 0, 1, 1]}]),
        'in entry 0 of "annotations" not both an integer "image_id" and a text "caption"',
    ),
    Row("text id", captions_file(images=[{"id": "1", "file_name": "a"}]), 'entry 0 of "images"'),
    Row("no dict", captions_file(images=["a.jpg"]), 'entry 0 of "images"'),
    Row(
        "unknown id",
        captions_file(annotations=annotation(image_id=77, caption="a dog")),
        "has 1 captions of images that are not among its 3 images, the first is of the image id 77",
    ),
    Row(
        "id twice",
        captions_file(images=[{"id": 10, "file_name": name} for name in NAMES], annotations=[
            {"image_id": 10, "caption": "a"}]),
        "captions_train.json has 1 image ids more than once, the first is 10",
    ),
    *(
        Row(
            f"id {number}",
            captions_file(
                images=[{"id": number, "file_name": "a.jpg"}],
                annotations=[{"image_id": number, "caption": "a"}],
            ),
            f"has the image id {number}; expected 0 to 2,147,483,647",
        )
        for number in (2**31, 2**63, 2**64, -(2**70))
    ),
    Row(
        "endless caption",
        captions_file(
            images=[{"id": 1, "file_name": "a.jpg"}],
            annotations=[{"image_id": 1, "caption": '"' * 2_000_000}],
        ),
        "has a caption of 2,000,000 characters, of the image a.jpg; expected at most 10,000",
    ),
    Row(
        "image missing",
        remove("train/a.jpg", "train/c.jpg"),
        "2 of the 3 images of {tmp}/captions_train.json are not in {tmp}/train, the first is c.jpg",
    ),
    Row(
        "other images",
        lambda folder: [
            (folder / "train" / name).rename(folder / "train" / f"x{name}") for name in NAMES
        ],
        "3 of the 3 images",
        {"skip_missing": True},
    ),
    Row("no folder", lambda folder: shutil.rmtree(folder / "train"), "images of the split 'trai"),
    Row(
        "two zips",
        lambda folder: [
            pictures(folder / "tmp", ["a.jpg"]),
            pack(folder / "train", folder / "a_train.zip"),
            pack(folder / "tmp", folder / "b_train.zip"),
        ],
        "may be {tmp}/a_train.zip or {tmp}/b_train.zip; name one of them by config.data.images",
    ),
    Row("named folder", nothing, "images of the split 'train' not found", {"images": "photos"}),
    Row(
        "bad zip",
        lambda folder: [shutil.rmtree(folder / "train"), write("train.zip", b"PK")(folder)],
        "train.zip is not a readable zip file",
    ),
    Row("a name", nothing, "did you mean 'coco_captions'?", {"name": "coco_caption"}),
]  # fmt: skip

FLICKR_ROWS = [
    Row("no table", remove("Flickr8k.token.txt"), "The table of captions not found in {tmp}"),
    Row("empty", write("Flickr8k.token.txt", "\n"), "Flickr8k.token.txt is empty"),
    Row("binary", write("Flickr8k.token.txt", b"\xff\xd8"), "Flickr8k.token.txt cannot be read as"),
    Row(
        "no tab",
        write("Flickr8k.token.txt", token_lines() + "a.jpg#7 a cat\n"),
        "Flickr8k.token.txt, line 7: expected <image>.jpg#<number>, a tab and a caption, got 'a",
    ),
    Row(
        "no number", write("Flickr8k.token.txt", "a.jpg\ta cat\n"), "line 1: expected <image>.jpg#"
    ),
    Row(
        "empty captions",
        write("Flickr8k.token.txt", "a.jpg#0\t\nb.jpg#0\t . \n"),
        "Flickr8k.token.txt has no caption with a word in it",
    ),
    Row("no list", nothing, "The list of the split 'test' not found", {"split": "test"}),
    Row("empty list", write("Flickr_8k.trainImages.txt", ""), "trainImages.txt is empty"),
    Row(
        "unknown image",
        write("Flickr_8k.trainImages.txt", "a.jpg\nz.jpg\n"),
        "trainImages.txt, line 2: {tmp}/Flickr8k.token.txt has no captions of the image 'z.jpg'",
    ),
    Row(
        "image twice",
        write("Flickr_8k.trainImages.txt", "a.jpg\nb.jpg\na.jpg\n"),
        "trainImages.txt, line 3: the image 'a.jpg' is in line 1 too",
    ),
    Row("image missing", remove("Flicker8k_Dataset/a.jpg"), "1 of the 2 images of {tmp}/Flickr8k"),
]


@pytest.mark.parametrize("row", COCO_ROWS, ids=lambda row: row.id)
def test_wrong_coco_ends_in_one_sentence(row, data):
    one_sentence(row, "coco_captions", data)


@pytest.mark.parametrize("row", FLICKR_ROWS, ids=lambda row: row.id)
def test_wrong_flickr_ends_in_one_sentence(row, flickr):
    one_sentence(row, "flickr", flickr)


def one_sentence(row, name, folder):
    row.change(folder)
    options = {"name": name, "split": "train", "path": str(folder)} | row.options
    with pytest.raises(InputError) as caught:
        open_caption_source(**options)
    message = str(caught.value)
    assert row.expected.replace("{tmp}", str(folder)) in message
    assert "\n" not in message and message[-1] in ".?"


def test_a_file_that_vanishes(data):
    source = open_caption_source("coco_captions", "train", path=str(data))
    (data / "train/c.jpg").unlink()
    with pytest.raises(InputError, match="c.jpg was listed but cannot be read"):
        source[0]


def test_captions_without_a_word_are_left_out_and_counted(tmp_path, caplog):
    (tmp_path / "train").mkdir()
    pictures(tmp_path / "train", NAMES)
    entries = [(10, "a cat"), (10, " . "), (20, ""), (30, "a dog")]
    captions_file(annotations=[{"image_id": i, "caption": c} for i, c in entries])(tmp_path)
    source = open_caption_source("coco_captions", "train", path=str(tmp_path))
    assert [source.captions(i) for i in range(len(source))] == [("a dog",), ("a cat",)]
    assert "2 captions in" in caplog.text and "with them 1 of the 3 images" in caplog.text
