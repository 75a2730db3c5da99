"""What all pictures share: text of users as it stands, fonts that draw it, files written whole."""

import functools
import os
import warnings
from pathlib import Path
from typing import Any

from jaxvision.errors import shorten
from jaxvision.files import save_figure


def drawable(text: str) -> str:
    r"""Returns text that matplotlib draws as it stands, on one line.

    Without it two dollar signs would be a formula; `\$` is its way of writing one.
    """
    return shorten(text).replace("$", r"\$")


def save_picture(figure: Any, path: str | os.PathLike) -> Path:
    """Writes a picture, see `save_figure`; returns its path.

    Characters that the usual font lacks are drawn by an installed one that has them, otherwise as
    boxes.

    Args:
      figure: Figure of matplotlib.
      path: Path of the picture; its folder must exist.
    """
    from matplotlib.text import Text

    texts = [artist for artist in figure.findobj() if isinstance(artist, Text)]
    missing = frozenset("".join(text.get_text() for text in texts)) - _characters()
    fonts = fonts_with(missing) if missing else ()
    for text in texts if fonts else ():
        text.set_fontfamily([*text.get_fontfamily(), *fonts])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        return save_figure(figure, path)


@functools.cache
def fonts_with(characters: frozenset[str]) -> tuple[str, ...]:
    """Returns the names of installed fonts that together have as many of the characters as can be.

    Args:
      characters: Characters that the usual font lacks.
    """
    from matplotlib.font_manager import fontManager

    names, missing = [], set(characters)
    for font in sorted(fontManager.ttflist, key=lambda font: font.name):
        is_plain = font.style == "normal" and font.weight == 400
        # Last Resort has a box for every character.
        if missing and is_plain and font.name not in names and "Last Resort" not in font.name:
            has = missing & _characters(font.fname)
            if has:
                names.append(font.name)
                missing -= has
    return tuple(names)


def _characters(path: str = "") -> set[str]:
    """Returns the characters of a font file; "": of the usual font."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return {"\n", *map(chr, get_font(path or findfont(FontProperties())).get_charmap())}
