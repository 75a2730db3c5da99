"""A picture with some images of every class."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from jaxvision.files import written_aside

_SIDE, _TEXT = 96, 140  # pixels of an image, and of the name beside its row


def plot_contact_sheet(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]], path: str | os.PathLike
) -> Path:
    """Writes a PNG with a row for each class; returns its path.

    Args:
      rows: Name of each class, and RGB pixels of some of its images.
      path: Path of the picture; its folder must exist.
    """
    columns = max((len(images) for _, images in rows), default=0)
    sheet = PIL.Image.new("RGB", (_TEXT + columns * _SIDE, max(len(rows), 1) * _SIDE), "white")
    draw, font = PIL.ImageDraw.Draw(sheet), PIL.ImageFont.load_default(14)
    for row, (name, images) in enumerate(rows):
        text = name if len(name) <= 18 else f"{name[:16]}.."
        text = text.encode("latin-1", "replace").decode("latin-1")
        draw.text((4, row * _SIDE + _SIDE // 2 - 8), text, "black", font)
        for column, pixels in enumerate(images):
            image = PIL.Image.fromarray(pixels)
            scale = (_SIDE - 4) / max(image.size)
            width, height = (max(round(x * scale), 1) for x in image.size)
            sheet.paste(image.resize((width, height)), (_TEXT + column * _SIDE, row * _SIDE + 2))
    with written_aside(path) as unfinished:
        sheet.save(unfinished, "PNG")
    return Path(path)
