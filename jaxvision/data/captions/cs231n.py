"""The `cs231n_coco` source: COCO 2014 as features and tokens, as Stanford's course hands it out."""

import contextlib
import importlib
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxvision.data.captions.caption_source import MAX_IMAGE_ID, Captions
from jaxvision.data.captions.features import CaptionedFeatures, FeatureArray
from jaxvision.data.captions.vocabulary import SPECIALS, UNK, join_words
from jaxvision.data.captions.vocabulary_file import load_vocabulary
from jaxvision.data.source import DataError, missing_data
from jaxvision.errors import shorten

_CAPTIONS, _VOCABULARY = "coco2014_captions.h5", "coco2014_vocab.json"
_FEATURES = ("vgg16_fc7_pca", "vgg16_fc7")  # 512 and 4,096 channels
_PREPARE = "unpack the folder coco_captioning of CS231n's assignment on captions there"
_MOST_UNPACKED = 1_100  # bytes, of one in the file; deflate reaches 1,032
_NAME = re.compile(r"(\d{1,20})\.\w+$")  # train2014/COCO_train2014_000000123456.jpg


class Cs231nCaptions(Captions):
    """The captions of one split, as words of the course's vocabulary.

    A word that it lacks stands in a caption as <UNK>, so that `vocabulary.encode` gives the very
    tokens of the file. An image's number is COCO's where `<split>2014_images.txt` is there, or else
    the row of its features.

    Attributes:
      vocabulary: Vocabulary of the course's 1,004 words.
      rows: Rows of the features, of each image.

    Args:
      path: Path of the folder `coco_captioning`.
      split: Name of the split: train | val.

    Raises:
      DataError: if a file is missing, unreadable, or has not the course's layout.
    """

    def __init__(self, path: str, split: str):
        if split not in ("train", "val"):
            raise DataError(f"The splits of cs231n_coco are train and val, not {split!r}.")
        vocabulary = load_vocabulary(_find(path, _VOCABULARY))
        file = _find(path, _CAPTIONS)
        with _open(file) as content:
            tokens = _read(content, f"{split}_captions", file)
            images = _read(content, f"{split}_image_idxs", file)
        self.vocabulary, self._words, size = vocabulary, vocabulary.words, len(vocabulary)
        fits = tokens.ndim == 2 and images.shape == tokens.shape[:1] and tokens.size
        if not fits or tokens.dtype.kind not in "iu" or images.dtype.kind not in "iu":
            raise DataError(
                f"{file} has captions {tokens.dtype} {tokens.shape} for images {images.dtype}"
                f" {images.shape}; expected integers [captions, length] and [captions]."
            )
        if images.min() < 0 or not 0 <= tokens.min() <= tokens.max() < size:
            raise DataError(
                f"{file} has tokens {tokens.min()} to {tokens.max()} and images from"
                f" {images.min()} on, but {_VOCABULARY} has {size} words; both"
                " files must be from the same archive."
            )
        order = np.argsort(images, kind="stable")
        self._tokens = tokens[order]
        self.rows, firsts = np.unique(images[order], return_index=True)
        self._ends = np.append(firsts, len(order))
        self._names = _read_names(path, split, int(self.rows[-1]) + 1)
        self._split = split

    def __len__(self) -> int:
        return len(self.rows)

    def captions(self, index: int) -> tuple[str, ...]:
        """Returns all captions of one image."""
        tokens = self._tokens[self._ends[index] : self._ends[index + 1]]
        return tuple(self._caption(row) for row in tokens.tolist())

    def _caption(self, tokens: list[int]) -> str:
        return join_words(self._words[t] for t in tokens if t >= len(SPECIALS) or t == UNK)

    def image_id(self, index: int) -> int:
        """Returns COCO's number, or the row of the features."""
        row = int(self.rows[index])
        name = _NAME.search(self._names[row]) if self._names else None
        return int(name.group(1)) if name else row

    def describe(self, index: int) -> str:
        """Returns the image's file name, if it is known."""
        row = int(self.rows[index])
        return self._names[row] if self._names else f"cs231n_coco {self._split} image {row}"


def open_cs231n_coco(path: str, split: str, *, features: str = "") -> CaptionedFeatures:
    """Returns one split of the course's data.

    Args:
      path: Path of the folder `coco_captioning`.
      split: Name of the split: train | val.
      features: Name of the features, `vgg16_fc7_pca` or `vgg16_fc7`, whose file is
        `<split>2014_<features>.h5`; "": the first that is there.

    Raises:
      DataError: as `Cs231nCaptions`, and if there are fewer features than images.
    """
    captions = Cs231nCaptions(path, split)
    names = [f"{split}2014_{name}.h5" for name in ([features] if features else _FEATURES)]
    file = _find(path, *names)
    with _open(file) as content:
        array = _read(content, "features", file, in_place=True)
    if array.ndim != 2 or array.dtype.kind != "f" or len(array) <= captions.rows[-1]:
        raise DataError(
            f"{file} has features {array.dtype} {array.shape}, but the captions are of"
            f" {captions.rows[-1] + 1} images; both files must be from the same archive."
        )
    return CaptionedFeatures(captions, FeatureArray(array), captions.rows)


def _find(path: str, *names: str) -> str:
    root = os.path.expanduser(path)
    for name in names:
        if path and os.path.isfile(os.path.join(root, name)):
            return os.path.join(root, name)
    raise missing_data(" or ".join(names), where=path, prepare=_PREPARE)


@contextlib.contextmanager
def _open(file: str) -> Iterator[Any]:
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise DataError(f"{file} needs h5py, which is not installed: pip install h5py.") from error
    try:
        with h5py.File(file, "r") as content:
            yield content
    except DataError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise DataError(f"{file} cannot be read ({shorten(error)}); copy it again.") from error


def _read(content: Any, key: str, file: str, *, in_place: bool = False) -> np.ndarray:
    """Returns an array, as a map of the file if it lies there in one piece and may stay there.

    A link of HDF5, and an array whose numbers lie elsewhere, could read any file of this machine.
    """
    link = content.get(key, getlink=True)
    if link is not None and type(link).__name__ != "HardLink":
        raise DataError(f"{key!r} in {file} is a link; get the original file.")
    data = content.get(key)
    if data is None or not hasattr(data, "shape"):
        raise DataError(f"{file} has no array {key!r}, but {shorten(sorted(content))}; {_PREPARE}.")
    if data.external or data.is_virtual:
        raise DataError(f"{key!r} in {file} lies in other files; get the original file.")
    size = os.path.getsize(file)
    if data.nbytes > _MOST_UNPACKED * size:
        raise DataError(
            f"{key!r} in {file} would unpack to {data.nbytes:,} bytes, more than its {size:,} can"
            " hold; get the original file."
        )
    offset = data.id.get_offset() if in_place else None
    if offset is None:
        return data[()]
    return np.memmap(file, data.dtype, "r", offset, data.shape)


def _read_names(path: str, split: str, num_images: int) -> list[str]:
    """Returns the file name of every row, or nothing if they are not known."""
    file = os.path.join(os.path.expanduser(path), f"{split}2014_images.txt")
    if not os.path.isfile(file):
        return []
    with open(file, encoding="utf-8") as lines:
        names = [line.strip() for line in lines]
    if len(names) < num_images:
        raise DataError(
            f"{file} names {len(names)} images, but the captions are of {num_images}; both files"
            " must be from the same archive."
        )
    for name in names:
        number = _NAME.search(name)
        if number and int(number[1]) > MAX_IMAGE_ID:
            raise DataError(
                f"{file} has the image {shorten(name)}; numbers end at {MAX_IMAGE_ID:,}."
            )
    return names
