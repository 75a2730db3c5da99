"""Positions and first kernels are adapted as the peers themselves do it."""

import functools

import numpy as np
import pytest

from jaxvision.interop.adapt import fit_channels, resize_as_timm, resize_as_torchvision

pytestmark = pytest.mark.parity
TABLE = np.random.default_rng(0).standard_normal((1, 17, 6)).astype(np.float32)


@pytest.mark.parametrize("grid", [(7, 7), (3, 3), (2, 5), (1, 9)])
def test_timms_positions(grid):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    theirs = timm.layers.resample_abs_pos_embed(torch.from_numpy(TABLE), list(grid), [4, 4])
    ours = resize_as_timm(TABLE, (4, 4), grid, 1)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=5e-6)


@pytest.mark.parametrize("side", [7, 3, 9, 1])
def test_torchvisions_positions(side):
    pytest.importorskip("torchvision")
    torch = pytest.importorskip("torch")
    from torchvision.models.vision_transformer import interpolate_embeddings

    state = {"encoder.pos_embedding": torch.from_numpy(TABLE)}
    theirs = interpolate_embeddings(side * 16, 16, state)["encoder.pos_embedding"]
    ours = resize_as_torchvision(TABLE, (4, 4), (side, side), 1)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-6)
    if side > 1:
        assert np.abs(resize_as_timm(TABLE, (4, 4), (side, side), 1) - ours).max() > 0.1


def test_torchvisions_rule_on_grids_that_are_not_square():
    torch = pytest.importorskip("torch")
    interpolate = functools.partial(
        torch.nn.functional.interpolate, mode="bicubic", align_corners=True
    )
    grid = torch.from_numpy(TABLE[:, 1:].reshape(1, 4, 4, 6).transpose(0, 3, 1, 2).copy())
    theirs = interpolate(grid, size=(2, 9)).numpy().transpose(0, 2, 3, 1).reshape(1, 18, 6)
    ours = resize_as_torchvision(TABLE, (4, 4), (2, 9), 1)
    np.testing.assert_array_equal(ours[:, 0], TABLE[:, 0])
    np.testing.assert_allclose(ours[:, 1:], theirs, atol=2e-6)


@pytest.mark.parametrize("old", [1, 3, 4, 6])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_timms_first_kernel(channels, old):
    pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    from timm.models import adapt_input_conv

    kernel = np.random.default_rng(0).standard_normal((5, old, 2, 2)).astype(np.float32)
    theirs = adapt_input_conv(channels, torch.from_numpy(kernel), base_chans=old).numpy()
    ours = fit_channels(kernel.transpose(2, 3, 1, 0), (2, 2, channels, 5), None)
    if channels == old:
        assert ours is None
        return
    assert ours is not None and ours[1].startswith(f"{old} input channels ")
    np.testing.assert_allclose(ours[0], theirs.transpose(2, 3, 1, 0), rtol=1e-6)
