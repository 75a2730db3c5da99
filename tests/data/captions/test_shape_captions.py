import pickle

import numpy as np
import pytest

from jaxvision.data.captions.open_captions import open_caption_source
from jaxvision.data.captions.shape_captions import ShapeCaptionSource, describe_pair
from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.data.source import DataError
from jaxvision.data.sources import shape_drawing
from jaxvision.data.sources.shape_scene import COLORS, DIFFICULTIES, SHAPES, color_distance
from jaxvision.data.sources.shapes import ShapesSource


def read(caption):
    """Returns (relation, first, second) of a canonical caption: what a person would understand."""
    caption = caption.replace("there is ", "").replace(" is ", " ")
    for relation in ("above", "below", "left of", "right of"):
        a, found, b = caption.partition(f" {relation} ")
        if found:
            return relation, tuple(a.split()[1:]), tuple(b.split()[1:])
    raise AssertionError(caption)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_every_caption_is_true(difficulty):
    source = ShapeCaptionSource("train", num_train=300, difficulty=difficulty, image_size=16)
    relations = []
    for index in range(300):
        first, second = source.scene(index).objects
        captions = source.captions(index)
        assert len(set(captions)) == 5 and source[index]["captions"] == captions
        for caption in captions:
            relation, a, b = read(caption)
            named = [(item.color, item.shape) for item in (first, second)]
            assert (a, b) in ((named[0], named[1]), (named[1], named[0]))
            # Which object is meant where both look alike, the relation says.
            swapped = relation in ("below", "right of")
            assert (a, b) == (named[1], named[0]) if swapped else (a, b) == (named[0], named[1])
            one, other = (second, first) if swapped else (first, second)
            dx, dy = other.x - one.x, other.y - one.y
            gap = {"above": dy, "below": -dy, "left of": dx, "right of": -dx}[relation]
            across = abs(dx) if relation in ("above", "below") else abs(dy)
            assert gap >= 2 * across - 1e-9 and gap > (one.diameter + other.diameter) / 2
            assert (" an " in f" {caption}") == ("orange" in caption)
            assert " a orange" not in f" {caption}"
        relations.append(read(captions[0])[0])
        for item in (first, second):
            for place in (item.x, item.y):
                assert item.diameter / 2 <= place + 1e-9 and place <= 1 - item.diameter / 2 + 1e-9
            contrast = color_distance(item.rgb, source.scene(index).background_rgb)
            assert contrast >= DIFFICULTIES[difficulty].contrast
    # The plainest caption names the upper or left object first, so that it follows from the image.
    assert set(relations) == {"above", "left of"} and 100 < relations.count("above") < 200
    assert read("a red circle above an orange square") == (
        "above",
        ("red", "circle"),
        ("orange", "square"),
    )


def test_objects_are_drawn_where_the_captions_say():
    source = ShapeCaptionSource("test", num_eval=400, difficulty="easy", image_size=64)
    checked = 0
    for index in range(400):
        image, scene = source[index]["image"].astype(int), source.scene(index)
        y, x = (np.mgrid[:64, :64] + 0.5) / 64
        for item in scene.objects:
            if item.shape != "circle":  # which fills its place
                continue
            near = np.abs(image - np.array(item.rgb)).max(-1) <= DIFFICULTIES["easy"].noise + 2
            distance = np.hypot(x - item.x, y - item.y) / (item.diameter / 2)
            assert near[distance < 0.85].mean() > 0.99
            checked += 1
    assert checked > 50


def test_clutter_has_the_colour_of_no_object(monkeypatch):
    source = ShapeCaptionSource("train", num_train=100, difficulty="hard", image_size=16)
    strokes = []
    monkeypatch.setattr(shape_drawing.cv2, "line", lambda *arguments: strokes.append(arguments[3]))
    for index in range(100):
        strokes.clear()
        assert source[index]["captions"] and strokes
        assert not {COLORS[item.color] for item in source.scene(index).objects} & set(strokes)


def test_images_depend_on_split_and_index_alone():
    a = ShapeCaptionSource("train", num_train=30, image_size=24)
    b = pickle.loads(pickle.dumps(ShapeCaptionSource("train", num_train=99, image_size=24)))
    for index in reversed(range(30)):
        np.testing.assert_array_equal(a[index]["image"], b[index]["image"])
        assert a.captions(index) == b.captions(index) and a.image_id(index) == index
    test = ShapeCaptionSource("test", num_eval=30, image_size=24)
    single = ShapesSource("train", num_train=30, image_size=24)
    sources = (a, test, single)
    assert len({source[i]["image"].tobytes() for source in sources for i in range(30)}) == 90
    larger = ShapeCaptionSource("train", num_train=30, image_size=(40, 24))
    assert larger[0]["image"].shape == (40, 24, 3) and larger.captions(0) == a.captions(0)


def test_one_vocabulary_for_all_captions():
    source = open_caption_source("shapes", "train", shapes={"num_train": 300}, image_size=16)
    vocabulary = Vocabulary.build(source.all_captions(), min_count=1)
    expected = {*COLORS, *SHAPES, *"a an there is above below left right of".split()}
    assert set(vocabulary.words[4:]) == expected
    every = set(source.all_captions())
    for index in range(300):
        for caption in source.captions(index):
            assert caption in every
            assert vocabulary.decode(vocabulary.encode(caption, 12)) == caption
    plain = ShapeCaptionSource("train", num_train=10, image_size=16, num_captions=1)
    assert plain.captions(3) == source.captions(3)[:1] == describe_pair(source.scene(3))[:1]
    assert len(set(plain.all_captions())) == 96 * 96 * 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": "val"}, "splits of shapes are train and test, not 'val'"),
        ({"difficulty": "extreme"}, "one of easy, medium, hard, not 'extreme'"),
        ({"image_size": 4}, "at least 8 pixels"),
        ({"num_captions": 6}, "1 to 5 captions an image, not 6"),
        ({"num_captions": 0}, "1 to 5 captions"),
    ],
)
def test_errors_name_the_choices(options, message):
    with pytest.raises(DataError, match=message):
        ShapeCaptionSource(**{"split": "train"} | options)
    with pytest.raises(IndexError):
        ShapeCaptionSource("test", num_eval=3, image_size=8)[3]
