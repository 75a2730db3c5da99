import functools

import numpy as np
from jaxtyping import Bool


@functools.cache
def local_mask(height: int, width: int, k: int) -> Bool[np.ndarray, "tokens tokens"]:
    """Returns which token may attend to which: only those in the k x k neighbourhood around it.

    Args:
      height: rows of the token grid.
      width: columns of the token grid; tokens are numbered row by row.
      k: side of the neighbourhood in tokens, odd.

    Returns:
      True where row's token may attend to column's token.

    Raises:
      ValueError: if `k` is not a positive odd number; the message gives the value.
    """
    if k < 1 or k % 2 == 0:
        raise ValueError(f"local_mask needs a positive odd neighbourhood, got k={k}.")
    rows, columns = np.divmod(np.arange(height * width), width)
    near_rows = np.abs(rows[:, None] - rows[None, :]) <= k // 2
    near_columns = np.abs(columns[:, None] - columns[None, :]) <= k // 2
    mask = near_rows & near_columns
    mask.flags.writeable = False  # the cache hands out the same array again
    return mask
