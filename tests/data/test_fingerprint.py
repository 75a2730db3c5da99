import json
import zipfile

import numpy as np

from jaxvision.data.captions.features import write_features
from jaxvision.data.captions.open_captions import open_caption_source
from jaxvision.data.fingerprint import fingerprint, fingerprint_difference
from jaxvision.data.sources.array_record import write_array_record
from jaxvision.data.sources.open_source import open_source


def changed(before, after):
    return fingerprint_difference(fingerprint(after), before)


def test_a_zip_is_the_folder_that_it_was_made_of(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for path in (folder / "train").rglob("*.*"):
            archive.write(path, path.relative_to(folder))
    before = fingerprint(open_source("folder", "train", path=str(folder)))
    packed = open_source("folder", "train", path=str(tmp_path))
    assert fingerprint(packed) == before and before["examples"] == 5
    assert set(before["parts"]) == {"cat", "dog"}
    another = open_source("folder", "train", path=str(tmp_path), class_names=("dog", "fox", "cat"))
    assert changed(before, another) == "has other images under the same names"  # other labels


def test_a_table(folder):
    def write(*rows):
        (folder / "a.csv").write_text("".join(f"{path},{label}\n" for path, label in rows))
        return open_source("list", "a", path=str(folder))

    rows = [("train/cat/b.jpg", "cat"), ("train/dog/d.jpg", "dog")]
    before = fingerprint(write(*rows))
    assert changed(before, write(*rows)) == ""
    assert changed(before, write(*rows, ("test/dog/f.jpg", "dog"))) == (
        "has 3 examples instead of 2 and has other files in 'dog'"
    )
    swapped = [(rows[0][0], "dog"), (rows[1][0], "cat")]
    assert changed(before, write(*swapped)) == "has other files in 'cat', 'dog'"


def test_records(folder, tmp_path):
    source = open_source("folder", "train", path=str(folder))
    write_array_record(source, str(tmp_path / "a.array_record"))
    before = fingerprint(open_source("array_record", "a", path=str(tmp_path)))
    (folder / "train/dog/e.jpg").write_bytes((folder / "test/dog/f.jpg").read_bytes() + b"x")
    source = open_source("folder", "train", path=str(folder))
    write_array_record(source, str(tmp_path / "a.array_record"))
    after = open_source("array_record", "a", path=str(tmp_path))
    assert changed(before, after) == "has other images under the same names"
    (folder / "train/dog/e.jpg").unlink()
    source = open_source("folder", "train", path=str(folder))
    write_array_record(source, str(tmp_path / "a.array_record"))
    assert "has 4 examples" in changed(before, open_source("array_record", "a", path=str(tmp_path)))


def test_captions(folder, tmp_path):
    def write(caption):
        images = [{"id": n, "file_name": name} for n, name in enumerate(("d.jpg", "e.jpg"))]
        words = [{"image_id": 0, "caption": caption}, {"image_id": 1, "caption": "a dog"}]
        content = {"images": images, "annotations": words}
        (tmp_path / "train.json").write_text(json.dumps(content))
        return [
            open_caption_source("coco_captions", "train", path=str(tmp_path), **options)
            for options in (
                {"images": str(folder / "train/dog")},
                {"features": str(tmp_path / "features")},
            )
        ]

    def features(value):
        array = np.full((2, 1, 4), value, np.float32)
        write_features(str(tmp_path / "features/train"), [(np.arange(2), array)], num_images=2)

    features(1)
    before = [fingerprint(source) for source in write("a cat")]
    assert [changed(*pair) for pair in zip(before, write("a cat"), strict=True)] == ["", ""]
    found = [changed(*pair) for pair in zip(before, write("a fox"), strict=True)]
    assert found == ["has other files in 'captions'"] * 2
    features(2)
    with (folder / "train/dog/d.jpg").open("ab") as file:
        file.write(b"x")
    found = [changed(*pair) for pair in zip(before, write("a cat"), strict=True)]
    assert found == ["has other files in 'images'", "has other images under the same names"]
