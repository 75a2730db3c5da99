"""Captions joined with the image files that they are about."""

import collections
import glob
import logging
import os
from collections.abc import Callable, Iterable

from jaxvision.data.captions.caption_source import CaptionExample, CaptionList, CaptionSource
from jaxvision.data.fingerprint import digest
from jaxvision.data.image_files import ImageFile, find_images
from jaxvision.data.source import DataError, missing_data
from jaxvision.errors import reason

_log = logging.getLogger(__name__)


class CaptionedImages(CaptionSource):
    """Image files with their captions.

    A file is found by its path below the folder or inside the zip, or else by its name alone, so
    that the images may lie one folder deeper than the captions say.

    Args:
      captions: Captions with the file names of their images.
      images: Folder or zip of the images.
      skip_missing: Whether images that have captions but no file are left out, with one line in the
        log, instead of an error.

    Raises:
      DataError: if the images, or some of them, are not there.
    """

    def __init__(self, captions: CaptionList, images: str, *, skip_missing: bool = False):
        files = _match(captions.names, images)
        missing = [name for name, file in zip(captions.names, files, strict=True) if file is None]
        if missing:
            complaint = (
                f"{len(missing)} of the {len(files)} images of {captions.where} are not in"
                f" {images}, the first is {missing[0]}"
            )
            if not skip_missing or len(missing) == len(files):
                raise DataError(f"{complaint}; complete the images, or give the right place.")
            _log.warning("%s; they are left out.", complaint)
            captions = captions.subset([i for i, file in enumerate(files) if file is not None])
        self._captions = captions
        self._files = [file for file in files if file is not None]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> CaptionExample:
        try:
            image = self._files[index].read()
        except OSError as error:
            raise DataError(
                f"{self.describe(index)} was listed but cannot be read ({reason(error)}); check "
                "the disk."
            ) from error
        return {"image": image, "captions": self.captions(index), "image_id": self.image_id(index)}

    def captions(self, index: int) -> tuple[str, ...]:
        """Returns all captions of one image, in the order of their file."""
        return self._captions.captions(index)

    def image_id(self, index: int) -> int:
        """Returns the image's number in the file of captions."""
        return self._captions.image_id(index)

    def describe(self, index: int) -> str:
        """Returns the path of the file, behind that of its zip if it is in one."""
        return self._files[index].name

    def parts(self) -> dict[str, str]:
        """Returns the digest of the captions, and one of the sizes of the images."""
        images = digest(str(file.size()) for file in self._files)
        return {**self._captions.parts(), "images": images}


def _match(names: list[str], place: str) -> list[ImageFile | None]:
    files = find_images(place, every_file=True)
    prefix = f"{os.path.expanduser(place).rstrip('/')}/"
    by_path = {file.name.removeprefix(prefix).replace(os.sep, "/"): file for file in files}
    by_name: dict[str, list[ImageFile]] = collections.defaultdict(list)
    for file in files:
        by_name[os.path.basename(file.name)].append(file)
    found = []
    for name in names:
        file = by_path.get(name)
        if file is None:
            same = by_name.get(os.path.basename(name), [])
            if len(same) > 1:
                raise DataError(
                    f"{place} has {len(same)} images {os.path.basename(name)}, {same[0].name} and"
                    f" {same[1].name}; the captions name it as {name}, which is neither."
                )
            file = same[0] if same else None
        found.append(file)
    return found


def is_image_place(path: str) -> bool:
    """Returns whether a path is a folder or zip, which may hold images."""
    return os.path.isdir(path) or path.lower().endswith(".zip")


def find_place(
    root: str,
    candidates: Iterable[str],
    *,
    wanted: str,
    option: str,
    usable: Callable[[str], bool] = os.path.isfile,
) -> str:
    """Returns the first of some paths below a folder that exists.

    Args:
      root: Folder that the paths are below; `~` is expanded.
      candidates: File names or globs, the most likely first; an absolute path stands for itself.
      wanted: Name by which a message calls the path.
      option: Argument that could name the path.
      usable: Function (path) -> whether a path that exists is of the right kind.

    Raises:
      DataError: if there is none, or a glob matches several.
    """
    root, candidates = os.path.expanduser(root), [c for c in candidates if c]
    for candidate in candidates if root else ():
        found = sorted(filter(usable, glob.glob(os.path.join(glob.escape(root), candidate))))
        if len(found) > 1:
            raise DataError(
                f"{wanted} may be {found[0]} or {found[1]}; name one of them by {option}."
            )
        if found:
            return found[0]
    raise missing_data(
        wanted,
        where=root,
        prepare=f"expected one of {', '.join(candidates)}, or name it by {option}",
    )
