"""The `coco_captions` source: one JSON file of captions, one folder or zip of images."""

import glob
import logging
from typing import Any

from jaxvision.data.captions.caption_source import CaptionList
from jaxvision.data.captions.captioned_images import find_place
from jaxvision.data.json_file import read_json
from jaxvision.data.source import DataError

_log = logging.getLogger(__name__)

_WANTED = (
    'the COCO layout {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1,'
    ' "caption": "a dog"}]}'
)


def image_places(split: str) -> tuple[str, ...]:
    """Returns where the images of a split are looked for: folders, zips and globs."""
    name = glob.escape(split)
    return (
        name,
        f"{name}.zip",
        f"images_{name}",
        f"*_{name}.zip",
        "images",
        "images.zip",
    )


def read_coco_captions(path: str, split: str) -> CaptionList:
    """Reads captions in COCO's layout.

    Args:
      path: Folder of the file.
      split: Split whose file is `annotations/captions_<split>.json`, `captions_<split>.json`,
        `<split>.json` or `<split>` itself. Images keep the order of the file; those without a
        caption are left out, with one line in the log.

    Raises:
      DataError: if there is no such file, it has another layout, or its entries do not fit.
    """
    name = glob.escape(split)
    file = find_place(
        path,
        (
            f"annotations/captions_{name}.json",
            f"captions_{name}.json",
            f"{name}.json",
            name if split.endswith(".json") else "",
        ),
        wanted=f"The captions of the split {split!r}",
        option="the split",
    )
    content = read_json(file, wanted=_WANTED)
    images = _pairs(content, "images", "id", "file_name", file)
    captions: dict[int, list[str]] = {number: [] for number, _ in images}
    unknown = []
    for number, caption in _pairs(content, "annotations", "image_id", "caption", file):
        captions[number].append(caption) if number in captions else unknown.append(number)
    if unknown:
        raise DataError(
            f"{file} has {len(unknown)} captions of images that are not among its {len(images)}"
            f" images, the first is of the image id {unknown[0]}; remove them, or add the images."
        )
    bare = [name for number, name in images if not captions[number]]
    if len(bare) == len(images):
        raise DataError(f"{file} has no captions; expected {_WANTED}.")
    if bare:
        _log.warning(
            "%d of the %d images of %s have no caption, the first is %s; they are left out.",
            len(bare),
            len(images),
            file,
            bare[0],
        )
    return CaptionList(file, ((i, name, captions[i]) for i, name in images if captions[i]))


def _pairs(
    content: dict[str, Any], key: str, number_key: str, text_key: str, file: str
) -> list[tuple[int, str]]:
    """Returns two fields of each entry of a list; raises DataError where they are not there."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise DataError(f'{file} has no list "{key}"; expected {_WANTED}.')
    pairs = []
    for place, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        number, text = fields.get(number_key), fields.get(text_key)
        if type(number) is not int or not isinstance(text, str):
            raise DataError(
                f'{file} has in entry {place} of "{key}" not both an integer "{number_key}" and a'
                f' text "{text_key}"; expected {_WANTED}.'
            )
        pairs.append((number, text))
    return pairs
