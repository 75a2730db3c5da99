"""The contract between the data pipeline and the step."""

import numpy as np
import pytest

from jaxvision.batch import check_batch
from jaxvision.errors import InputError


def labelled(**changes):
    batch = {
        "image": np.zeros((2, 4, 4, 3), np.uint8),
        "label": np.array([0, 9], np.int32),
        "mask": np.array([True, False]),
    }
    return {key: value for key, value in (batch | changes).items() if value is not None}


def captioned(**changes):
    batch = {
        "image": np.zeros((2, 4, 4, 3), np.uint8),
        "tokens": np.array([[1, 4, 2], [1, 99, 2]], np.int32),
        "image_id": np.array([7, -1], np.int32),
        "mask": np.array([True, False]),
    }
    return {key: value for key, value in (batch | changes).items() if value is not None}


def test_good_batches_pass():
    check_batch(labelled(), num_classes=9)  # what is masked out does not count
    check_batch(captioned(), num_classes=5)
    features = np.zeros((2, 9, 8), np.float32)
    check_batch(captioned(image=None, features=features), num_classes=5)
    check_batch(captioned(mask=np.zeros(2, bool)), num_classes=1)
    check_batch(labelled(index=np.zeros(2, np.int64), corrupt=np.zeros(2, bool)), num_classes=9)


@pytest.mark.parametrize(
    "batch, expected",
    [
        (labelled(label=None), r"must have the key 'label'; this one has \['image', 'mask'\]"),
        (labelled(image=np.zeros((2, 4, 4, 3))), "'image' must be uint8 with 4 dim.*float64"),
        (labelled(label=np.zeros(3, np.int32)), "'label' has 3 examples but 'mask' has 2"),
        (labelled(label=np.array([9, 0], np.int32)), "Labels must be in 0..4 .* got 9..9; set"),
        (captioned(image=None), "must have the key 'image'"),
        (captioned(image_id=None), "must have the key 'image_id'"),
        (captioned(features=np.zeros((2, 8), np.float32)), "'features' must be float32 with 3"),
        (captioned(features=np.zeros((2, 1, 8), np.float16)), "'features' must be float32"),
        (captioned(tokens=np.zeros((2, 3), np.int64)), "'tokens' must be int32 with 2 dim"),
        (captioned(tokens=np.zeros((3, 3), np.int32)), "'tokens' has 3 examples"),
        (captioned(mask=np.ones(2, bool)), "Tokens .*0..4 .*vocabulary of 5, got 1..99; take the"),
        (captioned(tokens=np.full((2, 3), -1, np.int32)), "got -1..-1"),
    ],
)
def test_broken_batches_are_named(batch, expected):
    with pytest.raises(InputError, match=expected) as caught:
        check_batch(batch, num_classes=5)
    assert "\n" not in str(caught.value)
