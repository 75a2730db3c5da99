"""The panels of the pictures of captions, value by value."""

import matplotlib.colors
import numpy as np
import pytest

from jaxvision.errors import InputError
from jaxvision.plots.caption_pictures import plot_attention, plot_captions


def luminance(color):
    return np.dot(matplotlib.colors.to_rgb(color), (0.2126, 0.7152, 0.0722))


def image(seed, height=8, width=12):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_captions_stand_above_their_images_and_references_below(tmp_path, figures):
    images = [image(seed) for seed in range(5)]
    captions = [f"caption {i}" for i in range(4)] + ["so many words that it is cut " * 5]
    references = [f"reference {i}" for i in range(5)]
    path = plot_captions(images, captions, references, tmp_path / "c.png")
    assert path == tmp_path / "c.png" and path.exists()
    panels = figures[0].axes
    for i in range(5):
        np.testing.assert_array_equal(panels[i].images[0].get_array(), images[i])
        assert panels[i].get_title() == captions[i] or panels[i].get_title().endswith(" …")
        assert [text.get_text() for text in panels[i].texts] == [references[i]]
    assert not any(axes.images or axes.axison for axes in panels[5:])
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ["the model's caption", "a true caption"]
    (below,) = panels[0].texts
    assert below.get_fontsize() == panels[0].title.get_fontsize()  # the truth is as readable
    assert luminance(below.get_color()) < 0.4
    plot_captions(images, captions, None, tmp_path / "c.png")
    assert not figures[1].legends
    assert not any(axes.texts for axes in figures[1].axes)


def test_attention_lies_over_the_image_cell_by_cell(tmp_path, figures):
    words = ["a", "red", "circle", "and", "more", "words"]
    weights = np.random.default_rng(0).random((6, 2, 3), np.float32)
    plot_attention(image(0), words, weights, tmp_path / "a.png")
    whole, *panels = figures[0].axes
    (shown,) = whole.images
    np.testing.assert_array_equal(shown.get_array(), image(0))
    for axes, word, expected in zip(panels, words, weights, strict=False):
        below, above = axes.images
        assert axes.get_title() == word
        np.testing.assert_array_equal(below.get_array(), image(0))
        np.testing.assert_array_equal(above.get_array(), expected)
        assert above.get_extent() == below.get_extent() and 0 < above.get_alpha() < 1
        assert above.get_clim() == (expected.min(), expected.max())  # each word's own scale
    assert not any(axes.images or axes.axison for axes in panels[len(words) :])


def test_errors(tmp_path):
    path = tmp_path / "p.png"
    for count, captions in ((0, 0), (37, 37), (2, 1)):
        with pytest.raises(InputError, match=f"got {count} images and {captions} captions"):
            plot_captions([image(0)] * count, ["a"] * captions, None, path)
    with pytest.raises(InputError, match="got 2 words and 1 maps"):
        plot_attention(image(0), ["a", "b"], np.ones((1, 2, 2), np.float32), path)
    with pytest.raises(InputError, match="the image as one vector"):
        plot_attention(image(0), ["a"], np.ones((1, 1, 1), np.float32), path)
    assert not path.exists()
