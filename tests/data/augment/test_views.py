"""The crops are torchvision's, pixel by pixel."""

import numpy as np
import pytest

from jaxvision.data.augment.transforms import eval_transform
from jaxvision.data.augment.views import FiveCrops, with_views
from jaxvision.errors import InputError


def image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(20, 30), (21, 30), (17, 14), (12, 14)])
def test_five_crops_are_torchvisions(shape):
    import torch
    from torchvision.transforms.v2 import functional

    pixels, size = image(*shape), (12, 14)
    expected = functional.five_crop(torch.from_numpy(pixels).permute(2, 0, 1), list(size))
    stacked = FiveCrops(size)(pixels)
    assert stacked.shape == (60, 14, 3)
    for ours, theirs in zip(stacked.reshape(5, 12, 14, 3), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs.permute(1, 2, 0).numpy())


def test_the_middle_is_that_of_an_evaluation_and_small_images_are_refused():
    transform = eval_transform((8, 8), eval_resize=10)
    assert with_views(transform, "none") is transform is with_views(transform, "flip")
    pixels = image(20, 31)
    crops = with_views(transform, "ten_crop")(pixels, None).reshape(5, 8, 8, 3)
    np.testing.assert_array_equal(crops[4], transform(pixels, None))
    with pytest.raises(InputError, match="4 x 9 pixels does not fill"):
        FiveCrops((8, 8))(image(4, 9))
