"""What a model gives for the images of a split."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Outputs:
    """One row for each image that could be decoded, in the order of the records.

    Attributes:
      values: Logits or features of the images.
      labels: Class indices of the images.
      records: Indices of the images in the source.
    """

    values: Float[np.ndarray, "examples width"]
    labels: Int[np.ndarray, " examples"]
    records: Int[np.ndarray, " examples"]
