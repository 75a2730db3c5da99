"""Reads what a captioner wrote, and joins it with the references."""

import json
import os
from collections.abc import Iterator
from typing import Any

from jaxvision.data.captions.caption_source import CaptionList, check_captions
from jaxvision.data.captions.coco import read_coco_captions
from jaxvision.data.captions.flickr import read_flickr
from jaxvision.data.source import DataError

_WANTED = (
    'COCO\'s results [{"image_id": 1, "caption": "a dog"}], or the lines that `jaxvision '
    "caption --json` prints"
)
_TABLE = ".token.txt"


def read_references(path: str) -> CaptionList:
    """Reads all captions of a file.

    Args:
      path: File of the captions: JSON in COCO's layout, or a table in Flickr8k's,
        `<name>.token.txt`.

    Raises:
      DataError: if there is no such file, or it has another layout.
    """
    folder, name = os.path.split(os.path.abspath(os.path.expanduser(path)))
    if not os.path.isfile(os.path.join(folder, name)):
        raise DataError(f"There is no file {path}; expected the references, in COCO's layout.")
    if name.endswith(".json"):
        return read_coco_captions(folder, name)
    if name.endswith(_TABLE):
        return read_flickr(folder, name.removesuffix(_TABLE))
    raise DataError(
        f"{path} should be a file of references, captions*.json in COCO's layout or a table"
        f" *{_TABLE} in Flickr8k's."
    )


def read_candidates(path: str, references: CaptionList) -> dict[int, str]:
    """Reads one caption for each image; one without a word matches nothing, as in pycocoevalcap.

    Args:
      path: File of COCO's results; an image may also be named by its file, as the lines of the
        command `caption` do: by as much of the path's end as tells it from the others.
      references: Reference captions of the images.

    Returns:
      {place among the references: caption}.

    Raises:
      DataError: if the file has another layout, an unknown image, an image twice, or a name that
        fits several images.
    """
    numbers = {references.image_id(i): i for i in range(len(references))}
    named: dict[str, list[int]] = {}
    for i in range(len(references)):
        named.setdefault(_parts(references.describe(i))[-1], []).append(i)
    candidates: dict[int, str] = {}
    unknown = []
    for image, caption in _pairs(path):
        if isinstance(image, int):
            fitting = [numbers[image]] if image in numbers else []
        else:
            near = named.get(_parts(image)[-1], [])
            fitting = [i for i in near if _same_end(image, references.describe(i))]
        if not fitting:
            unknown.append(image)
        elif len(fitting) > 1:
            names = " and ".join(references.describe(i) for i in fitting[:2])
            raise DataError(
                f"{path} has a caption of the image {image!r}, which may be {names} of "
                f"{references.where}; name the image by more of its path."
            )
        elif fitting[0] in candidates:
            raise DataError(f"{path} has two captions of the image {image!r}; keep one of them.")
        else:
            candidates[fitting[0]] = caption
    if unknown:
        raise DataError(
            f"{path} has {len(unknown)} captions of images that are not in {references.where}, the"
            f" first is of the image {unknown[0]!r}; remove them, or name the references of the"
            " same images."
        )
    if not candidates:
        raise DataError(f"{path} has no captions; expected {_WANTED}.")
    return candidates


def _parts(path: str) -> list[str]:
    return path.replace("\\", "/").split("/")


def _same_end(path: str, other: str) -> bool:
    """Returns whether one path is the end of the other, by whole names."""
    pairs = list(zip(reversed(_parts(path)), reversed(_parts(other)), strict=False))
    return all(a == b for a, b in pairs)


def _pairs(path: str) -> Iterator[tuple[int | str, str]]:
    """Yields an image's number or file name, and its caption."""
    for number, entry in enumerate(_entries(path)):
        image, caption = entry.get("image_id"), entry.get("caption")
        if "captions" in entry and isinstance(entry.get("image"), str):
            if entry.get("error"):  # of an image that could not be captioned
                continue
            image, caption = entry["image"], _first(entry["captions"])
        if not isinstance(image, int | str) or not isinstance(caption, str):
            raise DataError(
                f"{path} has no image and caption in entry {number}; expected {_WANTED}."
            )
        check_captions(path, image, [caption])
        yield image, caption


def _first(captions: Any) -> Any:
    """Returns the text of the first caption, if there is one."""
    first = captions[0] if isinstance(captions, list) and captions else None
    return first.get("caption") if isinstance(first, dict) else None


def _entries(path: str) -> list[dict[str, Any]]:
    """Returns the objects of a JSON list, or of JSON lines."""
    try:
        with open(os.path.expanduser(path), encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); expected {_WANTED}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error}); expected {_WANTED}.") from error
    try:
        if text.lstrip().startswith("{"):
            entries = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); expected {_WANTED}.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path} is no list of objects; expected {_WANTED}.")
    return entries
