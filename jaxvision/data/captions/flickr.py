"""The `flickr` source: a table of captions, lists of the splits, one folder or zip of images."""

import glob
import os

from jaxvision.data.captions.caption_source import CaptionList
from jaxvision.data.captions.captioned_images import find_place
from jaxvision.data.source import DataError
from jaxvision.errors import reason

# Of the original archives; the first is misspelt there.
_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "Images")
IMAGE_PLACES = (*_FOLDERS, *(f"{folder}.zip" for folder in _FOLDERS))
_TABLES = ("Flickr8k.token.txt", "results_20130124.token")
_TEXT_FOLDER = "Flickr8k_text"
_ALIASES = {"val": "dev", "validation": "dev"}
_LAYOUT = "<image>.jpg#<number>, a tab and a caption"


def read_flickr(path: str, split: str) -> CaptionList:
    """Reads captions in the layout of Flickr8k and Flickr30k.

    Args:
      path: Folder of the text files, or the one that holds `Flickr8k_text`.
      split: Name of the split: train | dev | test (or val), whose images are listed in
        `Flickr_8k.<split>Images.txt`, `<split>.txt` or `<split>` itself, one file name a line, with
        or without `.jpg`. The table is `Flickr8k.token.txt` or Flickr30k's
        `results_20130124.token`. A table `<split>.token.txt` is the whole split and needs no list;
        the split "all" is the whole table.

    An image's number is its place in the table, which is the same for every split.

    Raises:
      DataError: if a file is missing or a line has another layout, or if the list names an image
        twice or one that is not in the table.
    """
    name = glob.escape(split)
    table = find_place(
        path,
        _with_text_folder(f"{name}.token.txt", *_TABLES),
        wanted="The table of captions",
        option="path",
    )
    captions: dict[str, list[str]] = {}
    for number, line in _lines(table):
        image, tab, caption = line.partition("\t")
        image, hash_mark, _ = image.partition("#")
        if not tab or not hash_mark or not image:
            raise DataError(f"{table}, line {number}: expected {_LAYOUT}, got {line[:60]!r}.")
        captions.setdefault(image, []).append(caption)
    if not captions:
        raise DataError(f"{table} is empty; expected lines of {_LAYOUT}.")
    numbers = {image: number for number, image in enumerate(captions)}
    images = list(captions)
    if split != "all" and os.path.basename(table) != f"{split}.token.txt":
        images = _read_list(path, split, captions, table)
    return CaptionList(table, ((numbers[image], image, captions[image]) for image in images))


def _read_list(path: str, split: str, captions: dict[str, list[str]], table: str) -> list[str]:
    names = [glob.escape(name) for name in (split, _ALIASES.get(split, "")) if name]
    file = find_place(
        path,
        _with_text_folder(
            *(f"Flickr_8k.{name}Images.txt" for name in names), f"{names[0]}.txt", names[0]
        ),
        wanted=f"The list of the split {split!r}",
        option="the split",
    )
    images: dict[str, int] = {}
    for number, line in _lines(file):
        line = line.strip()
        image = line if line in captions else f"{line}.jpg"
        if image not in captions:
            raise DataError(
                f"{file}, line {number}: {table} has no captions of the image {line!r}; correct the"
                " line."
            )
        if image in images:
            raise DataError(
                f"{file}, line {number}: the image {line!r} is in line {images[image]} too; remove"
                " one of them."
            )
        images[image] = number
    if not images:
        raise DataError(f"{file} is empty; expected one file name a line.")
    return list(images)


def _with_text_folder(*names: str) -> list[str]:
    return [*names, *(f"{_TEXT_FOLDER}/{name}" for name in names)]


def _lines(file: str) -> list[tuple[int, str]]:
    """Returns the lines that are not blank, with their numbers."""
    try:
        with open(file, encoding="utf-8-sig") as lines:
            numbered = [(number, line.rstrip("\n")) for number, line in enumerate(lines, 1)]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} cannot be read as text ({reason(error)}); copy it again."
        ) from error
    return [(number, line) for number, line in numbered if line.strip()]
