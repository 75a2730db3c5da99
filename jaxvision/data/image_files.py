"""Images without labels, wherever they lie: files, folders, zip files."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxvision.data.file_tree import list_files, report_left_out
from jaxvision.data.source import IMAGE_SUFFIXES, DataError, is_image
from jaxvision.data.zip_reader import ZipReader


@dataclass(frozen=True)
class ImageFile:
    """One encoded image.

    Attributes:
      name: Path of the image, behind that of its zip if it is in one.
      read: Function that returns the bytes, or pixels that were never encoded; raises DataError or
        OSError.
      size: Function that returns their number; raises OSError.
    """

    name: str
    read: Callable[[], bytes | np.ndarray]
    size: Callable[[], int]


def find_images(path: str, *, every_file: bool = False) -> list[ImageFile]:
    """Returns the images at a path, in the order of their names.

    Args:
      path: Path of an image, or of a folder or zip with images at any depth. Of these, files
        without an image suffix are left out, and counted in the log, and so are hidden ones; a file
        that is named itself is taken as it is.
      every_file: Whether all files of a folder or zip are returned, for those who know the names.

    Raises:
      DataError: if there is nothing, or no image in it.
    """
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        names, _ = list_files(path)
        found = sorted(name for name in names if every_file or is_image(name))
        images = [_on_disk(os.path.join(path, name)) for name in found]
    elif path.lower().endswith(".zip") and os.path.isfile(path):
        reader = ZipReader(path)
        names = reader.names
        members = sorted((name, i) for i, name in enumerate(names) if every_file or is_image(name))
        images = [_in_zip(reader, i) for _, i in members]
    elif os.path.isfile(path):
        names, images = [], [_on_disk(path)]
    else:
        raise DataError(f"There is no image, folder or zip {path}; check the path.")
    if not every_file:
        report_left_out(path, names)
    if not images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{path} holds no image; images end in {suffixes}.")
    return images


def _on_disk(path: str) -> ImageFile:
    return ImageFile(path, functools.partial(_read, path), functools.partial(os.path.getsize, path))


def _in_zip(reader: ZipReader, index: int) -> ImageFile:
    read, size = functools.partial(reader.read, index), functools.partial(reader.size, index)
    return ImageFile(reader.describe(index), read, size)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
