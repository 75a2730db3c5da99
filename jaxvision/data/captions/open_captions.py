"""open_caption_source(): the one door to captioned images, by the name in config.data.name."""

import glob
import os
from typing import Any

from jaxvision.data.captions.caption_source import CaptionSource
from jaxvision.data.captions.captioned_images import CaptionedImages, find_place, is_image_place
from jaxvision.data.captions.coco import image_places, read_coco_captions
from jaxvision.data.captions.cs231n import open_cs231n_coco
from jaxvision.data.captions.features import open_features
from jaxvision.data.captions.flickr import IMAGE_PLACES, read_flickr
from jaxvision.data.captions.one_shape import OneShapeSource
from jaxvision.data.captions.shape_captions import ShapeCaptionSource
from jaxvision.errors import check_choice

NAMES = ("shapes", "one_shape", "coco_captions", "flickr", "cs231n_coco")

_DRAWN = {"shapes": ShapeCaptionSource, "one_shape": OneShapeSource}


def open_caption_source(
    name: str,
    split: str,
    *,
    path: str = "",
    images: str = "",
    features: str = "",
    skip_missing: bool = False,
    image_size: int | tuple[int, int] = 224,
    shapes: Any = None,
) -> CaptionSource:
    """Opens one split of captioned images for random access.

    Whatever the source, a transform must leave its captions true: a horizontal flip makes a lie of
    "left of".

    Args:
      name: Name of the data set: `shapes` (two of them in an image), `one_shape`, `coco_captions`,
        `flickr` or `cs231n_coco`.
      split: Name of the split, train | val | test, or a file; its meaning is in the file of each
        name here.
      path: Folder of the captions; `~` is expanded. `shapes` needs none.
      images: Folder or zip of the images, below `path` or absolute; "": looked for below `path`.
      features: Folder with the precomputed features of each split, `<features>/<split>`, which take
        the place of the images; of `cs231n_coco` the name of its features, see there.
      skip_missing: Whether images that have captions but no file are left out, instead of an error.
      image_size: Size of the images in pixels, one side or (height, width); only shapes are drawn
        at a given size.
      shapes: Mapping with further options of `shapes`; see ShapeCaptionSource.

    Raises:
      DataError: where the name is unknown, or the data is missing or malformed.
    """
    check_choice("config.data.name", name, NAMES)
    if name == "cs231n_coco":
        return open_cs231n_coco(path, split, features=features)
    if name in _DRAWN:
        source = _DRAWN[name](split, image_size=image_size, **(shapes or {}))
        return open_features(source, os.path.join(features, split)) if features else source
    if name == "coco_captions":
        captions, places = read_coco_captions(path, split), image_places(split)
    else:
        captions, places = read_flickr(path, split), (*image_places(split), *IMAGE_PLACES)
    captions = captions.with_words()
    if features:
        return open_features(captions, os.path.join(features, split))
    place = find_place(
        path,
        [glob.escape(os.path.expanduser(images))] if images else places,
        wanted=f"The images of the split {split!r}",
        option="config.data.images",
        usable=is_image_place,
    )
    return CaptionedImages(captions, place, skip_missing=skip_missing)
