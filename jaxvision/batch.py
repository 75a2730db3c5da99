"""The contract between the data pipeline and the step: keys, shapes, dtypes and ranges."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np

from jaxvision.errors import InputError


class ImageBatch(TypedDict):
    """A batch of labelled images on the host; in a mask, True always means valid."""

    image: np.ndarray  # uint8 [batch, height, width, 3], RGB
    # int32 [batch], class index; with several labels [batch, classes]: 1 there, 0 not, -1 unknown.
    # Not there where nothing is learned from labels.
    label: NotRequired[np.ndarray]
    mask: np.ndarray  # bool [batch], False = padding that fills the last batch


class CaptionBatch(TypedDict):
    """A batch of captioned images on the host: `image`, or `features` of an encoder in its place.

    The shift by one between a decoder's inputs and targets is the task's to make.
    """

    image: NotRequired[np.ndarray]  # uint8 [batch, height, width, 3], RGB
    features: NotRequired[np.ndarray]  # float32 [batch, positions, channels], computed before
    tokens: np.ndarray  # int32 [batch, length], <START> w1 ... wn <END> <NULL> ...
    image_id: np.ndarray  # int32 [batch], joins captions with their references; -1 = padding
    mask: np.ndarray  # bool [batch], False = padding that fills the last batch


_LAYOUT = {
    "image": (np.uint8, 4),
    "features": (np.float32, 3),
    "label": (np.int32, 1),
    "tokens": (np.int32, 2),
    "image_id": (np.int32, 1),
    "mask": (np.bool_, 1),
}

ON_DEVICE = tuple(_LAYOUT)  # what a step may need; the rest of a host batch stays there


def check_batch(batch: Mapping[str, Any], *, num_classes: int) -> None:
    """Checks one host batch against the contract of `ImageBatch`, or of `CaptionBatch`.

    Args:
      batch: Batch on the host; one of captions, if it has `tokens`.
      num_classes: Number of outputs of the model's head; of captions, the size of the vocabulary;
        0: there is no head, and no label that it would learn.

    Raises:
      InputError: naming the key that breaks the contract, what was expected and what came.
    """
    captions = "tokens" in batch
    keys = ("image", "tokens", "image_id", "mask") if captions else ("image", "label", "mask")
    if not num_classes:
        keys = ("image", "mask")
    for key in keys:
        if key == "image" and captions and "features" in batch:
            key = "features"
        if key not in batch:
            raise InputError(f"A batch must have the key '{key}'; this one has {sorted(batch)}.")
        array, (dtype, ndim) = batch[key], _LAYOUT[key]
        if key == "label" and array.shape[1:] == (num_classes,):
            ndim = 2  # a label for each class
        if array.dtype != dtype or array.ndim != ndim:
            raise InputError(
                f"Batch key '{key}' must be {np.dtype(dtype).name} with {ndim} dimensions, "
                f"got {array.dtype} of shape {array.shape}."
            )
        if len(array) != len(batch["mask"]):
            raise InputError(
                f"Batch key '{key}' has {len(array)} examples but 'mask' has {len(batch['mask'])}."
            )
    if not num_classes:
        return
    values = batch["tokens" if captions else "label"][batch["mask"]]
    if not captions and values.ndim == 2:
        if values.size and not -1 <= values.min() <= values.max() <= 1:
            raise InputError(
                "Labels of several classes must be 1, 0 or -1 (unknown), got "
                f"{values.min()}..{values.max()}."
            )
        return
    if values.size and not 0 <= values.min() <= values.max() < num_classes:
        found = f"{values.min()}..{values.max()}"
        raise InputError(
            f"Tokens must be in 0..{num_classes - 1} for a model with a vocabulary of"
            f" {num_classes}, got {found}; take the vocabulary that the model was made for."
            if captions
            else f"Labels must be in 0..{num_classes - 1} for a model with {num_classes} classes,"
            f" got {found}; set --config.model.num_classes to the data's count."
        )
