import pickle
import time

import numpy as np
import pytest

from jaxvision.data.source import DataError
from jaxvision.data.sources.shape_drawing import _OUTLINES
from jaxvision.data.sources.shape_scene import COLORS, DIFFICULTIES, SHAPES
from jaxvision.data.sources.shapes import ShapesSource


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_images_depend_on_split_and_index_alone(difficulty):
    a = ShapesSource("train", num_train=40, difficulty=difficulty, image_size=24)
    b = ShapesSource("train", num_train=99, difficulty=difficulty, image_size=24)
    first = [a[i] for i in range(40)]
    for i in reversed(range(40)):
        again = pickle.loads(pickle.dumps(b))[i]
        np.testing.assert_array_equal(first[i]["image"], again["image"])
        assert first[i]["label"] == again["label"]


def test_train_and_test_share_no_image():
    train = ShapesSource("train", num_train=200, image_size=16)
    test = ShapesSource("test", num_eval=200, image_size=16)
    images = {source[i]["image"].tobytes() for source in (train, test) for i in range(200)}
    assert len(images) == 400
    assert len(train) == len(test) == 200


@pytest.mark.parametrize("size", [(16, 16), (8, 40), (40, 24)])
def test_any_size_and_classes_are_balanced(size):
    source = ShapesSource("train", num_train=80, difficulty="hard", image_size=size)
    examples = [source[i] for i in range(80)]
    assert all(e["image"].shape == (*size, 3) and e["image"].dtype == np.uint8 for e in examples)
    assert np.bincount([e["label"] for e in examples]).tolist() == [10] * 8
    assert source.class_names == SHAPES == tuple(_OUTLINES) == tuple(sorted(SHAPES))


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_object_is_where_the_scene_says(difficulty):
    """The share of pixels near the object's colour is high inside its place and low outside."""
    source = ShapesSource("train", num_train=400, difficulty=difficulty, image_size=64)
    for i in range(0, 400, 8):  # circles, which fill their place
        item = source.scene(i).objects[0]
        assert item.shape == "circle"
        image = source[i]["image"].astype(int)
        y, x = (np.mgrid[:64, :64] + 0.5) / 64
        near = np.abs(image - np.array(item.rgb)).max(-1) <= DIFFICULTIES[difficulty].noise + 2
        distance = np.hypot(x - item.x, y - item.y) / (item.diameter / 2)
        assert near[distance < 0.9].mean() > 0.99
        assert near[distance > 1.1].mean() < 0.3
        assert item.diameter / 2 <= item.x <= 1 - item.diameter / 2


def test_outlines_stay_in_the_unit_circle_and_differ():
    for outlines in _OUTLINES.values():
        radii = np.hypot(*np.concatenate(outlines).T)
        assert 0.9 < radii.max() < 1.01
    drawn = ShapesSource("train", num_train=8, difficulty="easy", image_size=64)
    assert len({drawn[i]["image"].tobytes() for i in range(8)}) == 8


def test_captions_are_true():
    source = ShapesSource("test", num_eval=200, difficulty="hard", image_size=16)
    texts = set()
    for i in range(200):
        scene, captions = source.scene(i), source.captions(i)
        item = scene.objects[0]
        assert captions == source.captions(i)
        assert all(item.shape in caption for caption in captions)
        assert f"{item.size} {item.color} {item.shape}" in captions[0]
        assert f"{scene.background_color} background" in captions[0]
        for word, wrong in (("left", item.x > 0.5), ("right", item.x < 0.5)):
            assert not (wrong and word in captions[1])
        for word, wrong in (("top", item.y > 0.5), ("bottom", item.y < 0.5)):
            assert not (wrong and word in captions[1])
        assert not any("  " in c or " a o" in f" {c}" for c in captions)
        assert item.color in COLORS and item.color != scene.background_color
        texts.add(captions[0])
    assert len(texts) > 150


def test_drawing_is_quick():
    source = ShapesSource("train", num_train=300, difficulty="medium", image_size=64)
    times = []
    for _ in range(3):
        start = time.process_time()
        for i in range(100):
            source[i]
        times.append((time.process_time() - start) / 100)
    assert min(times) < 1.5e-3  # about 0.15 ms on an idle core; the rest is for a busy machine


def test_errors_name_the_choices():
    with pytest.raises(DataError, match="easy, medium, hard"):
        ShapesSource("train", difficulty="extreme")
    with pytest.raises(DataError, match="train and test"):
        ShapesSource("val")
    with pytest.raises(DataError, match="at least 8"):
        ShapesSource("train", image_size=4)
    with pytest.raises(IndexError):
        ShapesSource("test", num_eval=3, image_size=8)[3]
