"""The types that the files of this folder share: image, operation, batch."""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "_height _width 3"]  # RGB; _: an operation may change the size
Batch = dict[str, np.ndarray]  # the keys are listed at train_dataset
Transform = Callable[[np.ndarray, np.random.Generator | None], np.ndarray]


def require_rng(rng: np.random.Generator | None) -> np.random.Generator:
    """Returns the generator; raises ValueError where a random operation is called without one."""
    if rng is None:
        raise ValueError(
            "This operation is random, but rng is None: pass numpy.random.default_rng(seed)."
        )
    return rng
