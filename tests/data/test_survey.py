"""`jaxvision data`: what it finds in data of which everything is known."""

import io
import json

import numpy as np
import PIL.Image
import pytest

from jaxvision.__main__ import main
from jaxvision.data.survey import difference_hash


@pytest.fixture
def pets(folder, photo, encode):
    """`folder` with a corrupt file, a text, and two duplicates of training images in test/."""
    (folder / "train/cat/bad.jpg").write_bytes((folder / "train/cat/b.jpg").read_bytes()[:150])
    (folder / "train/dog/notes.txt").write_text("a dog")
    original = photo(60, 80, 9)
    (folder / "train/dog/large.jpg").write_bytes(encode(original, quality=95))
    small = PIL.Image.fromarray(original).resize((40, 30))
    (folder / "test/dog/small.webp").write_bytes(encode(small, "WEBP", quality=80))
    (folder / "test/dog/same.jpg").write_bytes((folder / "train/cat/b.jpg").read_bytes())
    return folder


def test_report(pets, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["data", str(pets), f"--sheet={sheet}", "--json", "--workers=2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["class_names"]) == ("folder", ["cat", "dog"])
    train, test = found["splits"]["train"], found["splits"]["test"]
    assert (train["images"], train["counts"], test["counts"]) == (7, [4, 3], [0, 3])
    assert train["width"] == [10, 10, 80] and train["height"] == [12, 12, 60]
    assert [name for name, _ in train["corrupt"]] == [f"{pets}/train/cat/bad.jpg"]
    assert train["left_out"] == "1 .txt" and test["left_out"] == "" == "".join(test["corrupt"])
    assert found["same_in_both"] == [[f"{pets}/train/cat/b.jpg", f"{pets}/test/dog/same.jpg"]]
    assert found["alike_in_both"] == [
        [f"{pets}/train/dog/large.jpg", f"{pets}/test/dog/small.webp"]
    ]
    with PIL.Image.open(sheet) as picture:  # two rows of three images each
        assert picture.size == (140 + 3 * 96, 2 * 96)
        pixels = np.asarray(picture)
    first = PIL.Image.open(pets / "train/cat/a.JPEG").resize((77, 92))
    assert np.abs(pixels[2:94, 140:217].astype(int) - np.asarray(first)).mean() < 3


def test_text(pets, capsys):
    assert main(["data", str(pets)]) == 0
    said = capsys.readouterr().out
    for line in (
        "cat                                       4             0",
        "width: least / median / most   10 / 10 / 80  10 / 10 / 40",
        "left out of train by their suffix: 1 .txt",
        "images of both splits the same files: 1",
        "images of both splits that look alike: 1",
        f"  {pets}/train/dog/large.jpg = {pets}/test/dog/small.webp",
    ):
        assert line in said, said
    assert f"corrupt: {pets}/train/cat/bad.jpg: " in said


def test_the_data_of_a_card_and_a_share(tmp_path, capsys):
    card = tmp_path / "card.py"
    card.write_text(
        "from configs import smoke\n\n\ndef get_config():\n    config = smoke.get_config()\n"
        "    config.data.shapes.num_train = 40\n    config.data.image_size = 16\n"
        "    return config\n"
    )
    assert main(["data", f"--config={card}", "--eval-split=25%", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    sizes = {name: split["images"] for name, split in found["splits"].items()}
    assert sum(sizes.values()) == 40 and sizes["train"] > sizes["25%"] > 0
    assert found["name"] == "shapes" and found["same_in_both"] == []


def test_hash_is_that_of_imagehash_and_stays_under_small_changes(photo):
    """imagehash.dhash: LANCZOS to 9 x 8, right neighbour brighter than left."""
    for seed in range(5):
        image = photo(90, 120, seed)
        grey = PIL.Image.fromarray(image).convert("L").resize((9, 8), PIL.Image.Resampling.LANCZOS)
        small = np.asarray(grey)
        bits = (small[:, 1:] > small[:, :-1]).flatten()
        found = difference_hash(image)
        assert f"{found:064b}" == "".join("01"[int(bit)] for bit in bits)
        file = io.BytesIO()
        PIL.Image.fromarray(image).resize((60, 45)).save(file, "JPEG", quality=75)
        other = difference_hash(np.asarray(PIL.Image.open(file)))
        assert (found ^ other).bit_count() <= 3
        different = difference_hash(photo(90, 120, seed + 100))
        assert (found ^ different).bit_count() > 10


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "Give the PATH of the data, or --config=CARD"),
        (("none",), "There is no folder or file none"),
        ((".", "--config=x.py"), "exactly one of them"),
        (("--config=./none.py",), "none.py fails with FileNotFoundError"),
        ((".", "--sheet=no/such/a.png"), "There is no folder"),
        ((".", "--eval-split=0%"), "more than 0%"),
    ],
)
def test_wrong_arguments(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
