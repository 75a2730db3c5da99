"""The contract between the data pipeline and the step: keys, shapes, dtypes and ranges."""

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np

from jaxvision.errors import InputError


class ImageBatch(TypedDict):
    """A batch of labelled images on the host; in a mask, True always means valid."""

    image: np.ndarray  # uint8 [batch, height, width, 3], RGB
    label: np.ndarray  # int32 [batch], class index
    mask: np.ndarray  # bool [batch], False = padding that fills the last batch


def check_batch(batch: Mapping[str, Any], *, num_classes: int) -> None:
    """Checks one host batch against the contract of `ImageBatch`.

    Raises:
      InputError: naming the key that breaks the contract, what was expected and what came.
    """
    expected = {"image": (np.uint8, 4), "label": (np.int32, 1), "mask": (np.bool_, 1)}
    for key, (dtype, ndim) in expected.items():
        if key not in batch:
            raise InputError(f"A batch must have the key '{key}'; this one has {sorted(batch)}.")
        array = batch[key]
        if array.dtype != dtype or array.ndim != ndim:
            raise InputError(
                f"Batch key '{key}' must be {np.dtype(dtype).name} with {ndim} dimensions, "
                f"got {array.dtype} of shape {array.shape}."
            )
        if len(array) != len(batch["mask"]):
            raise InputError(
                f"Batch key '{key}' has {len(array)} examples but 'mask' has {len(batch['mask'])}."
            )
    labels = batch["label"][batch["mask"]]
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise InputError(
            f"Labels must be in 0..{num_classes - 1} for a model with {num_classes} classes, got "
            f"{labels.min()}..{labels.max()}; set --config.model.num_classes to the data's count."
        )
