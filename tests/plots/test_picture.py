"""Text of users in pictures: drawn as it stands, whatever is in it."""

import logging

import numpy as np
import pytest
from PIL import Image

from jaxvision.plots.caption_pictures import plot_attention, plot_captions
from jaxvision.plots.confusion_grid import plot_confusion
from jaxvision.plots.curves import plot_curves
from jaxvision.plots.picture import drawable, fonts_with
from jaxvision.plots.prediction_grid import plot_predictions
from jaxvision.plots.previews import plot_samples

# Two dollars are a formula, which the first of them cannot be read as.
NAMES = [
    "a$x_{1}$",
    "$\\frac$",
    "\u65e5\u672c",
    "a\tb\nc\x1b[31m",
    "\udce9",
    "\U0001f600",
    "\\$",
    "$",
]


def confusion():
    matrix = np.eye(len(NAMES), dtype=int).tolist()
    classes = [{"class": name} for name in NAMES]
    return {"classes": classes, "confusion": {"matrix": matrix}, "accuracy": 0.5}


def pairs():
    pair = {"true": NAMES[0], "predicted": NAMES[3], "of": 3, "count": 2}
    many = [{"class": name} for name in NAMES * 4]
    return {"classes": many, "confusion": {"most_confused": [pair]}, "accuracy": 0.5}


def curves(path):
    folder = path.parent / "a $x_{1}$ run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    plot_curves(folder).rename(path)


COUNT = len(NAMES)
IMAGES = np.zeros((COUNT, 8, 8, 3), np.uint8)
LABELS, SHARES = np.arange(COUNT, dtype=np.int32), np.eye(COUNT, dtype=np.float32)[::-1].copy()
MAPS = np.ones((COUNT, 2, 2), np.float32)
PICTURES = {
    "predictions": lambda path: plot_predictions(IMAGES, LABELS, SHARES, NAMES, path),
    "captions": lambda path: plot_captions([*IMAGES], NAMES, NAMES, path),
    "attention": lambda path: plot_attention(IMAGES[0], NAMES, MAPS, path),
    "confusion": lambda path: plot_confusion(confusion(), path),
    "mistakes": lambda path: plot_confusion(pairs(), path),
    "curves": curves,
}


@pytest.mark.parametrize("name", PICTURES)
def test_names_are_drawn_as_text(tmp_path, figures, caplog, name):
    PICTURES[name](tmp_path / "p.png")  # a warning would be an error here
    assert Image.open(tmp_path / "p.png").size > (300, 300)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_a_formula_is_no_formula_and_control_characters_are_no_characters():
    from matplotlib.figure import Figure

    def drawn(text):
        _, is_math = Figure().text(0, 0, drawable(text))._preprocess_math(drawable(text))
        assert not is_math
        return Figure().text(0, 0, "")._preprocess_math(drawable(text))[0]

    assert [drawn(text) for text in ("$x$", "a$b", "\\$x$", "$", "plain \u65e5")] == [
        "$x$", "a$b", "\\$x$", "$", "plain \u65e5",
    ]  # fmt: skip
    assert drawn("a\tb\x1b[31m\udce9").isprintable()


def test_a_font_that_has_the_characters_is_found():
    script = frozenset("\U0001d49c")  # of matplotlib's own fonts, not all have it
    fonts = fonts_with(script)
    assert fonts and all("Last Resort" not in font for font in fonts)
    assert fonts_with(frozenset("\U000ffffd")) == ()
    assert len(fonts_with(script | {"\U000ffffd"})) == len(fonts)


def test_previews_too(tmp_path):
    from jaxvision.plots.previews import caption_title, class_shares

    shares = np.array([0.6, 0.4] + [0.0] * (COUNT - 2), np.float32)
    titles = [class_shares(shares, NAMES), caption_title("$\\frac$ a\x1b")]
    path = plot_samples(IMAGES[None, :2], [titles], tmp_path / "s.png", row_names=["step 1"])
    assert path.exists()
