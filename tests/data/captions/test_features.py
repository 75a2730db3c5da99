"""Precomputed features: the project's own files, and those of CS231n."""

import importlib
import json
import pickle
from typing import Any

import numpy as np
import pytest

from jaxvision.data.augment.compose import Compose
from jaxvision.data.captions.caption_source import CaptionList
from jaxvision.data.captions.caption_target import CaptionTarget
from jaxvision.data.captions.features import FeatureArray, open_features, write_features
from jaxvision.data.captions.open_captions import open_caption_source
from jaxvision.data.pipeline import eval_dataset, train_dataset
from jaxvision.data.source import CorruptImageError, DataError

h5py = pytest.importorskip("h5py")
IDS = (30, 10, 20, 50)


def captions(ids=IDS):
    return CaptionList("c.json", ((i, f"{i}.jpg", [f"a {i}", f"the {i}"]) for i in ids))


def blocks(ids=IDS, shape=(2, 3)):
    for i in ids:
        yield np.array([i]), np.full((1, *shape), i / 10, np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_written_features_come_back(tmp_path, dtype):
    folder = str(tmp_path / "new/train")
    write_features(folder, blocks((50, 20, 10, 30, 60)), num_images=5, dtype=dtype)
    assert sorted(p.name for p in (tmp_path / "new/train").iterdir()) == [
        "features.npy",
        "image_ids.npy",
    ]
    source = open_features(captions(), folder)  # joined by id; one more does no harm
    for copy in (source, pickle.loads(pickle.dumps(source))):
        assert len(copy) == 4
        for index, number in enumerate(IDS):
            example = copy[index]
            assert example["features"].dtype == np.float32
            expected = np.full((2, 3), number / 10, dtype).astype(np.float32)
            np.testing.assert_array_equal(example["features"], expected)
            assert example["captions"] == (f"a {number}", f"the {number}")
            assert example["image_id"] == number and copy.describe(index) == f"{number}.jpg"
    # Written again, also in another shape.
    write_features(folder, blocks(shape=(1, 7)), num_images=4)
    assert open_features(captions(), folder)[0]["features"].shape == (1, 7)


def test_the_array_is_not_sent_to_workers(tmp_path):
    write_features(str(tmp_path), blocks(shape=(50, 100)), num_images=4)
    source = open_features(captions(), str(tmp_path))
    data = pickle.dumps(source)
    assert len(data) < 5_000 < 4 * 50 * 100 * 4
    np.testing.assert_array_equal(pickle.loads(data)[1]["features"], source[1]["features"])


def test_batches_of_several_images(tmp_path):
    features = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    halves = [(np.array(IDS[:3]), features[:3]), (np.array(IDS[3:]), features[3:])]
    write_features(str(tmp_path), halves, num_images=4)
    source = open_features(captions(), str(tmp_path))
    np.testing.assert_array_equal([source[i]["features"] for i in range(4)], features)


def test_images_need_not_be_there(tmp_path):
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in IDS],
        "annotations": [{"image_id": i, "caption": "a dog"} for i in IDS],
    }
    (tmp_path / "captions_val.json").write_text(json.dumps(content))
    (tmp_path / "val.token.txt").write_text("a.jpg#0\ta dog\nb.jpg#0\ta cat\n")
    write_features(str(tmp_path / "vit/val"), blocks(), num_images=4)
    options: dict[str, Any] = {"path": str(tmp_path), "features": str(tmp_path / "vit")}
    source = open_caption_source("coco_captions", "val", **options)
    assert source[1]["features"][0, 0] == 1
    with pytest.raises(DataError, match="no features of 2 of the 2 images, the first is a.jpg"):
        open_caption_source("flickr", "val", **options)
    write_features(str(tmp_path / "vit/test"), blocks(range(3)), num_images=3)
    source = open_caption_source("shapes", "test", shapes={"num_eval": 3}, **options)
    assert "image" not in source[2] and len(source[2]["captions"]) == 5


def test_features_that_are_not_finite_count_as_corrupt(tmp_path):
    array = np.ones((3, 2, 2), np.float32)
    array[1, 0, 1] = np.nan
    with pytest.raises(CorruptImageError, match="not all finite"):
        FeatureArray(array)[1]
    assert FeatureArray(array)[2].shape == (2, 2) and FeatureArray(array[:, 0])[0].shape == (1, 2)


@pytest.mark.parametrize(
    "ids, num_images, message",
    [
        (IDS, 5, "of 4 images, 4 of them different, but 5 were announced"),
        (IDS, 3, "of 4 images, 3 of them different, but 3 were announced"),
        ((1, 2, 1), 3, "of 3 images, 2 of them different, but 3 were announced"),
        ((), 2, "of 0 images"),
    ],
)
def test_writing_needs_each_image_once(tmp_path, ids, num_images, message):
    with pytest.raises(DataError, match=message):
        write_features(str(tmp_path), blocks(ids), num_images=num_images)
    with pytest.raises(DataError, match="Features not found"):
        open_features(captions(), str(tmp_path))


def spoil(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def save(name, array):
    return lambda folder: np.save(folder / name, array)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda folder: (folder / "image_ids.npy").unlink(), "Features not found in"),
        (spoil("features.npy", b"numpy"), "holds no readable features"),
        (spoil("features.npy", b""), "holds no readable features"),
        (spoil("image_ids.npy", b"\x80"), "holds no readable features"),
        (save("image_ids.npy", np.array([{}])), "holds no readable features"),
        (save("image_ids.npy", np.array(IDS)), "image ids int64"),
        (save("image_ids.npy", np.array(IDS[:2], np.int32)), r"image ids int32 \(2,\)"),
        (save("features.npy", np.zeros((4, 2))), r"features float64 \(4, 2\)"),
        (save("features.npy", np.zeros((4, 2, 3), np.float32, "F")), "features float32"),
        (
            save("image_ids.npy", np.array([1, 2, 10, 50], np.int32)),
            "features of 2 of the 4 images",
        ),
    ],
)
def test_damaged_features_end_in_one_sentence(tmp_path, change, message):
    write_features(str(tmp_path), blocks(), num_images=4)
    change(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        open_features(captions(), str(tmp_path))
    assert "\n" not in str(caught.value)


# --- CS231n -----------------------------------------------------------------------------------

WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", "a", "dog", "cat", "on", "mat"]
TOKENS = [
    [1, 4, 5, 2, 0, 0],  # a dog
    [1, 4, 6, 7, 8, 2],  # a cat on mat
    [1, 3, 5, 2, 0, 0],  # <UNK> dog
    [1, 5, 2, 0, 0, 0],  # dog
]
IMAGES = [2, 0, 2, 3]  # image 1 has no caption


def dataset(name, values, **options):
    """Returns a function that writes one array of an h5 file, in place of any before."""

    def write(folder):
        file, key = name.split(":")
        with h5py.File(folder / file, "a") as content:
            if key in content:
                del content[key]
            if values is not None:
                content.create_dataset(key, data=values, **options)

    return write


def course(folder, **options):
    for split in ("train", "val"):
        dataset(f"coco2014_captions.h5:{split}_captions", np.array(TOKENS, np.int32))(folder)
        dataset(f"coco2014_captions.h5:{split}_image_idxs", np.array(IMAGES, np.int32))(folder)
        features = np.arange(20, dtype=np.float32).reshape(4, 5)
        dataset(f"{split}2014_vgg16_fc7_pca.h5:features", features, **options)(folder)
        dataset(f"{split}2014_vgg16_fc7.h5:features", 2 * features[:, :2], **options)(folder)
    content = {"idx_to_word": WORDS, "word_to_idx": {w: i for i, w in enumerate(WORDS)}}
    (folder / "coco2014_vocab.json").write_text(json.dumps(content))


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 5), "compression": "gzip"}])
def test_the_courses_files(tmp_path, options):
    if options:
        options["chunks"] = True
    course(tmp_path, **options)
    source = open_caption_source("cs231n_coco", "train", path=str(tmp_path))
    vocabulary = source.vocabulary
    assert vocabulary is not None
    assert len(source) == 3 and list(vocabulary.words) == WORDS
    for copy in (source, pickle.loads(pickle.dumps(source))):
        assert [copy.image_id(i) for i in range(3)] == [0, 2, 3]
        np.testing.assert_array_equal(copy[1]["features"], [[10, 11, 12, 13, 14]])
        assert copy.captions(1) == ("a dog", "<UNK> dog") and copy.captions(2) == ("dog",)
    tokens = [vocabulary.encode(c, 6).tolist() for i in range(3) for c in source.captions(i)]
    assert tokens == [TOKENS[1], TOKENS[0], TOKENS[2], TOKENS[3]]  # the very ones of the file
    assert source.describe(1) == "cs231n_coco train image 2"
    wide = open_caption_source("cs231n_coco", "val", path=str(tmp_path), features="vgg16_fc7")
    np.testing.assert_array_equal(wide[1]["features"], [[20, 22]])
    # With the course's list of images, the numbers are COCO's.
    names = [f"train2014/COCO_train2014_{n:012}.jpg\n" for n in (581929, 7, 42, 318556)]
    (tmp_path / "train2014_images.txt").write_text("".join(names))
    source = open_caption_source("cs231n_coco", "train", path=str(tmp_path))
    assert [source.image_id(i) for i in range(3)] == [581929, 42, 318556]
    assert source.describe(2) == "train2014/COCO_train2014_000000318556.jpg"


def test_the_courses_files_through_the_pipeline(tmp_path):
    course(tmp_path)
    source = open_caption_source("cs231n_coco", "train", path=str(tmp_path))
    options: dict[str, Any] = {
        "transform": Compose(()),
        "target": CaptionTarget(source.vocabulary, 6),
        "batch_size": 4,
    }
    for batch in (
        next(train_dataset(source, seed=0, num_workers=1, **options)),
        next(iter(eval_dataset(source, **options))),
    ):
        valid = batch["mask"]
        assert batch["features"].shape == (4, 1, 5) and batch["tokens"].shape == (4, 6)
        np.testing.assert_array_equal(batch["features"][valid, 0, 0], 5 * batch["image_id"][valid])
        assert all(row in TOKENS for row in batch["tokens"][valid].tolist())


CAPTIONS, FEATURES = "coco2014_captions.h5", "train2014_vgg16_fc7_pca.h5"


def elsewhere(link):
    """Returns a function that puts a link where the features were."""

    def write(folder):
        with h5py.File(folder / "other.h5", "w") as content:
            content["secret"] = np.ones((4, 5), np.float32)
        with h5py.File(folder / FEATURES, "a") as content:
            content.move("features", "other")
            content["features"] = link

    return write


def outside(folder):
    """Lets the features be bytes of another file."""
    (folder / "other.bin").write_bytes(bytes(80))
    with h5py.File(folder / FEATURES, "a") as content:
        del content["features"]
        content.create_dataset("features", (4, 5), "f4", external=[("other.bin", 0, 80)])


def virtual(folder):
    """Lets the features be those of another h5 file."""
    elsewhere(h5py.SoftLink("/x"))(folder)
    layout = h5py.VirtualLayout((4, 5), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "secret", (4, 5))
    with h5py.File(folder / FEATURES, "a") as content:
        del content["features"]
        content.create_virtual_dataset("features", layout)


def huge(folder):
    """Lets the features have many rows and no bytes."""
    with h5py.File(folder / FEATURES, "a") as content:
        del content["features"]
        content.create_dataset("features", (80_000_000, 5), "f4", chunks=(1024, 5))


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


@pytest.mark.parametrize(
    "change, message",
    [
        (remove(CAPTIONS), f"{CAPTIONS} not found in {{tmp}}; unpack the folder coco_captioning"),
        (remove("coco2014_vocab.json"), "coco2014_vocab.json not found in {tmp}"),
        (
            remove(FEATURES, "train2014_vgg16_fc7.h5"),
            f"{FEATURES} or train2014_vgg16_fc7.h5 not found in {{tmp}}",
        ),
        (spoil(CAPTIONS, b"no h5"), f"{{tmp}}/{CAPTIONS} cannot be read"),
        (spoil(FEATURES, b""), f"{{tmp}}/{FEATURES} cannot be read"),
        (spoil("coco2014_vocab.json", b"{"), "{tmp}/coco2014_vocab.json is not JSON"),
        (
            dataset(f"{CAPTIONS}:train_captions", None),
            "has no array 'train_captions', but ['train_",
        ),
        (dataset(f"{CAPTIONS}:train_captions", TOKENS[:2]), "has captions int64 (2, 6) for images"),
        (dataset(f"{CAPTIONS}:train_image_idxs", [0.0] * 4), "for images float64 (4,)"),
        (dataset(f"{CAPTIONS}:train_captions", [[1, 9, 2]] * 4), "has tokens 1 to 9 and images"),
        (dataset(f"{CAPTIONS}:train_image_idxs", [-1, 0, 0, 0]), "and images from -1 on"),
        (dataset(f"{FEATURES}:features", np.ones((3, 5))), "features float64 (3, 5), but the cap"),
        (dataset(f"{FEATURES}:features", np.ones(4)), "features float64 (4,)"),
        (elsewhere(h5py.ExternalLink("other.h5", "secret")), "'features' in {tmp}/train2014_vgg"),
        (elsewhere(h5py.SoftLink("/other")), "is a link; get the original file"),
        (
            outside,
            "'features' in {tmp}/train2014_vgg16_fc7_pca.h5 lies in other files",
        ),
        (virtual, "lies in other files; get the original file"),
        (huge, "would unpack to 1,600,000,000 bytes, more than its"),
        (
            spoil("train2014_images.txt", b"1.jpg\n2.jpg\n3.jpg\n9223372036854775808.jpg\n"),
            "has the image 9223372036854775808.jpg; numbers end at 2,147,483,647",
        ),
        (spoil("train2014_images.txt", b"a.jpg\n"), "train2014_images.txt names 1 images, but"),
    ],
)
def test_damaged_files_of_the_course_end_in_one_sentence(tmp_path, change, message):
    course(tmp_path)
    change(tmp_path)
    with pytest.raises(DataError) as caught:
        open_caption_source("cs231n_coco", "train", path=str(tmp_path))
    text = str(caught.value)
    assert message.replace("{tmp}", str(tmp_path)) in text and "\n" not in text


def test_the_course_has_two_splits_and_needs_h5py(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="splits of cs231n_coco are train and val, not 'test'"):
        open_caption_source("cs231n_coco", "test", path=str(tmp_path))
    with pytest.raises(DataError, match="not found in config.data.path, which is empty"):
        open_caption_source("cs231n_coco", "train")
    course(tmp_path)

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(DataError, match="needs h5py, which is not installed: pip install h5py"):
        open_caption_source("cs231n_coco", "train", path=str(tmp_path))
