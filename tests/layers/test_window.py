import numpy as np
import pytest

from jaxvision.layers.window import local_mask


def test_neighbourhood_counts_of_3x3():
    counts = local_mask(4, 5, 3).sum(1).reshape(4, 5)
    np.testing.assert_array_equal(
        counts, [[4, 6, 6, 6, 4], [6, 9, 9, 9, 6], [6, 9, 9, 9, 6], [4, 6, 6, 6, 4]]
    )


def test_rows_do_not_wrap_around():
    mask = local_mask(2, 3, 3)
    assert mask[2, 1] and mask[2, 5] and not mask[2, 3] and not mask[2, 0]
    np.testing.assert_array_equal(mask, mask.T)
    np.testing.assert_array_equal(local_mask(3, 2, 1), np.eye(6, dtype=bool))
    assert local_mask(3, 3, 5).all()


@pytest.mark.parametrize("k", [0, 2, -1])
def test_message(k):
    with pytest.raises(ValueError, match=f"positive odd neighbourhood, got k={k}"):
        local_mask(2, 2, k)
