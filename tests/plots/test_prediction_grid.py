import matplotlib.colors
import numpy as np
import pytest
from PIL import Image

from jaxvision.errors import InputError
from jaxvision.plots.prediction_grid import plot_predictions, worst_by_class

NAMES = ["cat", "dog", "Staffordshire bullterrier, Staffordshire bull terrier"]


def examples(count):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 8, 6, 3), dtype=np.uint8)
    return images, np.zeros(count, np.int32), np.full((count, 3), 1 / 3, np.float32)


def test_title_and_true_class(tmp_path, figures):
    images, _, _ = examples(3)
    labels = np.array([0, 2, 2], np.int32)
    probabilities = np.array([[0.9, 0.1, 0], [0.3, 0.7, 0], [0, 0.1, 0.9]], np.float32)
    path = plot_predictions(images, labels, probabilities, NAMES, tmp_path / "p.png")
    assert path == tmp_path / "p.png"
    right, wrong, long_name, unused = figures[0].axes
    assert right.get_title() == "cat 90%" and right.texts[0].get_text() == "true: cat"
    red, green, blue, _ = matplotlib.colors.to_rgba(right.texts[0].get_color())
    assert green > max(red, blue)
    assert wrong.get_title() == "dog 70%"
    assert wrong.texts[0].get_text() == "true: Staffordshire bul…"
    red, green, blue, _ = matplotlib.colors.to_rgba(wrong.texts[0].get_color())
    assert red > 0.7 > 0.3 > max(green, blue)
    assert long_name.get_title() == "Staffordshire bul… 90%"
    np.testing.assert_array_equal(wrong.images[0].get_array(), images[1])
    assert not unused.images and not unused.axison


def test_a_corrupt_image_is_said_to_be_one(tmp_path, figures):
    corrupt = np.array([False, True])
    plot_predictions(*examples(2), NAMES, tmp_path / "p.png", corrupt=corrupt, title="two")
    good, bad, *_ = figures[0].axes
    assert good.get_title() == "cat 33%" and bad.get_title() == "corrupt image"
    assert bad.texts[0].get_text() == "true: cat"  # the label is known all the same
    assert figures[0].get_suptitle() == "two"


def test_the_worst_mistakes_come_first_and_every_class_comes():
    true = np.array([0.4, 0.1, 0.9, 0.2, 0.45, 0.3, 0.8, 0.05, 0.7])
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2], np.int32)
    probabilities = np.zeros((9, 4), np.float32)
    probabilities[np.arange(9), labels] = true
    probabilities[:, 3] = 1 - true  # right where the true class has more than half
    everything = [7, 1, 3, 5, 0, 4, 8, 6, 2]  # mistakes by the true class's share, then the others
    assert worst_by_class(probabilities, labels, 9) == everything
    assert worst_by_class(probabilities, labels, 3) == [7, 1, 3]  # one of each class
    assert worst_by_class(probabilities, labels, 6) == [7, 1, 3, 5, 0, 8]  # two of each
    assert worst_by_class(probabilities, labels, 2) == [7, 1]
    order = np.random.default_rng(0).permutation(9)
    shuffled = worst_by_class(probabilities[order], labels[order], 6)
    assert order[shuffled].tolist() == [7, 1, 3, 5, 0, 8]
    probabilities[4] = np.nan
    assert len(worst_by_class(probabilities, labels, 9)) == 9


@pytest.mark.parametrize("count", [1, 2, 5, 36])
def test_any_number_of_images_fills_a_grid(tmp_path, figures, count):
    plot_predictions(*examples(count), NAMES, tmp_path / "p.png")
    assert sum(len(axes.images) for axes in figures[0].axes) == count
    assert len(figures[0].axes) < count + np.sqrt(count) + 1  # less than a row stays empty
    assert np.asarray(Image.open(tmp_path / "p.png").convert("L")).std() > 30


def test_errors(tmp_path):
    path = tmp_path / "p.png"
    for count in (0, 37):
        with pytest.raises(InputError, match=f"1 to 36 images, got {count}"):
            plot_predictions(*examples(count), NAMES, path)
    images, labels, probabilities = examples(4)
    with pytest.raises(InputError, match=r"probabilities \(4, 2\), got \(4,\) and \(4, 3\)"):
        plot_predictions(images, labels, probabilities, NAMES[:2], path)
    assert not path.exists()
