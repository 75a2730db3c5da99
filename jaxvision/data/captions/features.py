"""Features that an encoder computed once: a small format on disk, and captions joined with them.

A folder holds `features.npy`, float32 or float16 [images, positions, channels], and
`image_ids.npy`, int32 [images]. Both are plain numpy files; the first is mapped into memory, so
that it may be larger than that. `features.json` beside them says which encoder it was, for those
who want the features of another image.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from jaxvision.data.captions.caption_source import CaptionExample, Captions, CaptionSource
from jaxvision.data.source import CorruptImageError, DataError, missing_data
from jaxvision.files import output_path, read_json, write_json

_ARRAY, _IDS = "features.npy", "image_ids.npy"
ENCODER_FILE = "features.json"
_PREPARE = f"expected {_ARRAY} and {_IDS}, written by `jaxvision embed --data=...`"


class FeatureArray:
    """Rows of an array [images, positions, channels] or [images, channels].

    One that lies in a file is mapped again in every process, instead of being copied there.
    """

    def __init__(self, array: np.ndarray):
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, row: int) -> Float32[np.ndarray, "positions channels"]:
        """Returns one image's features.

        Raises:
          CorruptImageError: if one of them is not finite.
        """
        features = np.array(self._array[row], np.float32)
        if not np.isfinite(features).all():
            raise CorruptImageError("its features are not all finite")
        return features if features.ndim == 2 else features[None]

    def __getstate__(self) -> dict:
        array = self._array
        if isinstance(array, np.memmap):
            return {"_map": (array.filename, array.dtype, "r", array.offset, array.shape)}
        return {"_array": array}

    def __setstate__(self, state: dict) -> None:
        self._array = np.memmap(*state["_map"]) if "_map" in state else state["_array"]


class CaptionedFeatures(CaptionSource):
    """Captions with the features of their images, which need not be there themselves.

    Args:
      captions: Captions of the images.
      features: Features, one row for each image, or more.
      rows: Row in the features of each image, in the order of the captions.
      encoder: Description of the encoder; None: nobody has written it down.
    """

    def __init__(
        self,
        captions: Captions,
        features: FeatureArray,
        rows: np.ndarray,
        encoder: Mapping[str, Any] | None = None,
    ):
        self._captions, self._features, self._rows = captions, features, rows
        self.encoder = encoder
        self.vocabulary = captions.vocabulary

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> CaptionExample:
        return {
            "features": self._features[int(self._rows[index])],
            "captions": self.captions(index),
            "image_id": self.image_id(index),
        }

    def captions(self, index: int) -> tuple[str, ...]:
        """Returns all captions of one image."""
        return self._captions.captions(index)

    def image_id(self, index: int) -> int:
        """Returns the image's number."""
        return self._captions.image_id(index)

    def describe(self, index: int) -> str:
        """Returns what the captions call the image."""
        return self._captions.describe(index)

    def parts(self) -> Mapping[str, str]:
        """Returns the digests of the captions."""
        return self._captions.parts()


def open_features(captions: Captions, folder: str) -> CaptionedFeatures:
    """Joins captions with the features in a folder, by the image ids.

    Raises:
      DataError: if the files are missing or damaged, or an image has no features.
    """
    folder = os.path.expanduser(folder)
    if not all(os.path.isfile(os.path.join(folder, name)) for name in (_ARRAY, _IDS)):
        raise missing_data("Features", where=folder, prepare=_PREPARE)
    described = pathlib.Path(folder, ENCODER_FILE)
    try:
        array = np.load(os.path.join(folder, _ARRAY), mmap_mode="r", allow_pickle=False)
        image_ids = np.load(os.path.join(folder, _IDS), allow_pickle=False)
        encoder = read_json(described) if described.exists() else None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{folder} holds no readable features ({error}); {_PREPARE}.") from error
    fits = array.dtype in (np.float32, np.float16) and array.ndim == 3 and array.size
    fits = fits and array.flags.c_contiguous
    if not fits or image_ids.dtype != np.int32 or image_ids.shape != array.shape[:1]:
        raise DataError(
            f"{folder} holds features {array.dtype} {array.shape} and image ids {image_ids.dtype}"
            f" {image_ids.shape}; {_PREPARE}."
        )
    row_of = {image_id: row for row, image_id in enumerate(image_ids.tolist())}
    rows = [row_of.get(captions.image_id(index), -1) for index in range(len(captions))]
    missing = [index for index, row in enumerate(rows) if row < 0]
    if missing:
        raise DataError(
            f"{folder} has no features of {len(missing)} of the {len(rows)} images, the first is"
            f" {captions.describe(missing[0])} with the image id {captions.image_id(missing[0])};"
            " compute them again."
        )
    return CaptionedFeatures(captions, FeatureArray(array), np.array(rows, np.int64), encoder)


def write_features(
    folder: str,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    num_images: int,
    dtype: str = "float32",
    encoder: Mapping[str, Any] | None = None,
) -> None:
    """Writes features to a folder; they appear there only when they are complete.

    Args:
      folder: Folder of the features, made if it is missing; features already there are replaced.
      batches: Batches of image ids int [b] and features [b, positions, channels], as they are
        computed.
      num_images: Number of images in all batches together.
      dtype: Data type of the file: float32 | float16, which takes half the space and is read as
        float32.
      encoder: Description of what computed them, as JSON holds it; None: none is written.

    Raises:
      DataError: if there are more or fewer images, or one twice.
    """
    folder = str(output_path(folder))
    os.makedirs(folder, exist_ok=True)
    image_ids = np.full(num_images, -1, np.int32)
    unfinished = os.path.join(folder, f"{_ARRAY}.unfinished")
    array, filled = None, 0
    for ids, features in batches:
        if array is None:
            shape = (num_images, *features.shape[1:])
            array = np.lib.format.open_memmap(unfinished, "w+", np.dtype(dtype), shape)
        end = filled + len(ids)
        if end <= num_images:
            image_ids[filled:end], array[filled:end] = ids, features
        filled = end
    if array is None or filled != num_images or len(np.unique(image_ids)) != num_images:
        raise DataError(
            f"The features are of {filled} images, {len(np.unique(image_ids[:filled]))} of them"
            f" different, but {num_images} were announced; give each image once."
        )
    array.flush()
    for name in (_ARRAY, _IDS, ENCODER_FILE):  # never those of one run beside the ids of another
        if os.path.exists(os.path.join(folder, name)):
            os.remove(os.path.join(folder, name))
    if encoder is not None:
        write_json(pathlib.Path(folder, ENCODER_FILE), dict(encoder))
    os.replace(unfinished, os.path.join(folder, _ARRAY))
    unfinished = os.path.join(folder, f"{_IDS}.unfinished")
    with open(unfinished, "wb") as file:
        np.save(file, image_ids)
    os.replace(unfinished, os.path.join(folder, _IDS))
