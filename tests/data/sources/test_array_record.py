import importlib.resources
import pickle
import sys

import numpy as np
import pytest

from jaxvision.data.decode import decode_image
from jaxvision.data.pipeline import CorruptCounter, eval_dataset
from jaxvision.data.source import CorruptImageError, DataError
from jaxvision.data.sources.array_record import write_array_record
from jaxvision.data.sources.open_source import open_source


def test_round_trip_of_encoded_images(folder, tmp_path):
    source = open_source("folder", "train", path=str(folder))
    write_array_record(source, str(tmp_path / "train.array_record"))
    for split in ("train", "train.array_record", "tra*"):
        copy = open_source("array_record", split, path=str(tmp_path))
        assert copy.class_names == source.class_names and len(copy) == len(source)
        for i in range(len(source)):
            assert copy[i] == source[i]
            assert copy.describe(i).endswith(source.describe(i))
    again = pickle.loads(pickle.dumps(copy))
    assert again[3] == source[3]


def test_several_files_and_raw_pixels(tmp_path):
    parts = [open_source("shapes", s, shapes={"num_train": 5, "num_eval": 3}, image_size=(8, 12))
             for s in ("train", "test")]  # fmt: skip
    for number, part in enumerate(parts):
        write_array_record(part, str(tmp_path / f"train-{number}.array_record"))
    source = open_source("array_record", "train-*", path=str(tmp_path))
    assert len(source) == 8
    for i in range(8):
        expected = parts[0][i] if i < 5 else parts[1][i - 5]
        np.testing.assert_array_equal(source[i]["image"], expected["image"])
        assert source[i]["label"] == expected["label"]


def test_labels_follow_another_list_of_classes(folder, tmp_path):
    write_array_record(
        open_source("folder", "train", path=str(folder)), str(tmp_path / "a.array_record")
    )
    names = ("fox", "dog", "cat")
    source = open_source("array_record", "a", path=str(tmp_path), class_names=names)
    assert source.class_names == names
    assert [source[i]["label"] for i in range(5)] == [2, 2, 2, 1, 1]
    assert source[0]["image"] == (folder / "train/cat/a.JPEG").read_bytes()
    with pytest.raises(DataError, match="has the class 'cat', not among the 2 classes of the run"):
        open_source("array_record", "a", path=str(tmp_path), class_names=("fox", "dog"))


def test_errors(folder, tmp_path):
    with pytest.raises(DataError, match="jaxvision prepare.*--config=quickstart"):
        open_source("array_record", "train", path=str(tmp_path))
    source = open_source("folder", "train", path=str(folder))
    with pytest.raises(DataError, match="must end in .array_record"):
        write_array_record(source, str(tmp_path / "x"))
    write_array_record(source, str(tmp_path / "a.array_record"))
    write_array_record(
        open_source("folder", "test", path=str(folder)), str(tmp_path / "b.array_record")
    )
    with pytest.raises(DataError, match="other classes"):
        open_source("array_record", "*", path=str(tmp_path))
    (tmp_path / "c.array_record").write_bytes(b"garbage" * 9999)
    with pytest.raises(DataError, match="not a readable ArrayRecord"):
        open_source("array_record", "c", path=str(tmp_path))
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.fixture
def damaged(tmp_path):
    """Six records, of which one bit of the fourth is flipped."""
    source = open_source("shapes", "train", shapes={"num_train": 6}, image_size=(8, 12))
    path = tmp_path / "train.array_record"
    write_array_record(source, str(path))
    data = bytearray(path.read_bytes())
    data[data.index(b"shapes train image 3") - 20] ^= 16
    path.write_bytes(data)
    return open_source("array_record", "train", path=str(tmp_path)), source


def test_a_damaged_record_is_corrupt(damaged, tmp_path):
    copy, source = damaged
    with pytest.raises(CorruptImageError, match="its record is damaged .*hash mismatch"):
        copy[3]
    assert copy.describe(3) == f"{tmp_path}/train.array_record/record 4"
    for i in (0, 1, 2, 4, 5):
        np.testing.assert_array_equal(copy[i]["image"], source[i]["image"])


def test_a_damaged_record_is_replaced_and_counted(damaged, caplog):
    copy, _ = damaged
    dataset = eval_dataset(copy, transform=lambda image, rng: image, batch_size=6)
    (batch,) = dataset
    assert batch["corrupt"].tolist() == [False] * 3 + [True] + [False] * 2
    counter = CorruptCounter(copy, max_fraction=0.5)
    counter.update(batch)
    assert counter.corrupt == 1 and "record 4: its record is damaged" in caplog.text


@pytest.mark.parametrize(
    "record",
    [b"", b"\xff\xff\xff\xff{}", b"\x01\0\0\0[", b"\x02\0\0\0[]", b"\x02\0\0\0{}"]
    + [
        len(text).to_bytes(4, "little") + text + bytes(12)
        for text in (
            b'{"label": 1.5}',
            b'{"label": "cat"}',
            b'{"label": 0, "shape": [2, 3, 3]}',
            b'{"label": 0, "shape": [4611686018427387904, 4, 3]}',
            b'{"label": 0, "shape": 12}',
            b"[" * 100_000,
        )
    ],
)
def test_a_record_of_another_kind_is_corrupt(tmp_path, record):
    from array_record.python.array_record_module import ArrayRecordWriter

    head = b'{"format": "jaxvision-1", "class_names": ["a"]}'
    writer = ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    writer.write(len(head).to_bytes(4, "little") + head)
    writer.write(record)
    writer.close()
    source = open_source("array_record", "a", path=str(tmp_path))
    with pytest.raises(CorruptImageError, match="its record is damaged"):
        source[0]
    assert source.describe(0).endswith("/record 1")


def test_a_file_of_another_format(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    writer.write(b"\x02\0\0\0{}")
    writer.close()
    with pytest.raises(DataError, match="not of this project's format"):
        open_source("array_record", "a", path=str(tmp_path))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A small tfds data set of PNG files with 3 + 2 images, prepared without TensorFlow."""
    import PIL.Image
    import tensorflow_datasets as tfds

    class TinyPets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                    "file_name": tfds.features.Text(),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(3), "test": self._generate_examples(2)}

        def _generate_examples(self, number):
            for i in range(number):
                picture = PIL.Image.fromarray(np.full((6, 5, 3), 40 * i, np.uint8))
                yield i, {"image": picture, "label": i % 2, "file_name": f"{i}.png"}

    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        # Preparing, not reading, imports this backport, which tfds does not list as a dependency.
        patch.setitem(sys.modules, "importlib_resources", importlib.resources)
        TinyPets(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


def test_tfds_without_tensorflow(prepared):
    source = open_source("tfds:tiny_pets", "train", path=prepared)
    assert source.class_names == ("cat", "dog") and len(source) == 3
    records = [source[i] for i in range(3)]
    assert all(isinstance(record["image"], bytes) for record in records)
    values = {int(decode_image(record["image"])[0, 0, 0]): record["label"] for record in records}
    assert values == {0: 0, 40: 1, 80: 0}
    assert ".png" in source.describe(0)
    assert pickle.loads(pickle.dumps(source))[1] == records[1]
    assert len(open_source("tfds:tiny_pets", "train[:2]", path=prepared)) == 2
    assert "tensorflow" not in sys.modules


def test_tfds_missing(prepared, tmp_path):
    for name in ("cifar10", "no_such_set"):
        with pytest.raises(DataError) as error:
            open_source(f"tfds:{name}", "train", path=str(tmp_path))
        assert f"tfds.builder('{name}'" in str(error.value) and str(tmp_path) in str(error.value)
        assert "download_and_prepare" in str(error.value) and "--config=quickstart" in str(
            error.value
        )
    with pytest.raises(DataError, match="has the splits train, test; 'validation' cannot"):
        open_source("tfds:tiny_pets", "validation", path=prepared)


def test_unknown_name():
    with pytest.raises(DataError, match="shapes, folder, list, tar, cifar10.*but is 'imagenet'"):
        open_source("imagenet", "train")
    with pytest.raises(DataError, match="not among the 2 classes of the run, of which it lacks"):
        open_source("shapes", "test", class_names=("a", "b"))
