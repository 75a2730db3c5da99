import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision.layers.attention import MultiHeadAttention
from jaxvision.layers.cosine_attention import CosineAttention
from jaxvision.layers.window import (
    attend_in_windows,
    attend_one_by_one,
    attend_side_by_side,
    local_mask,
    log_spaced_coordinates,
    relative_position_index,
    shift_mask,
    window_partition,
    window_reverse,
)

MAP = np.arange(2 * 6 * 4 * 3, dtype=np.float32).reshape(2, 6, 4, 3)


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


@pytest.mark.parametrize("window", [(2, 2), (3, 4), (6, 1), (1, 2)])
def test_reverse_undoes_partition(window):
    windows = window_partition(jnp.asarray(MAP), window)
    assert windows.shape == (2 * 24 // (window[0] * window[1]), window[0] * window[1], 3)
    np.testing.assert_array_equal(window_reverse(windows, window, (6, 4)), MAP)
    # The second window of the first image lies to the right of the first, or below it.
    rows, columns = window
    top = slice(0, rows) if columns < 4 else slice(rows, 2 * rows)
    left = slice(columns, 2 * columns) if columns < 4 else slice(0, columns)
    np.testing.assert_array_equal(windows[1], MAP[0, top, left].reshape(-1, 3))


def test_shift_mask_of_a_row():
    # Six tokens in windows of 3, shifted by 1: the last one came in from the other end.
    mask = shift_mask((1, 6), (1, 3), (0, 1))
    assert mask.shape == (2, 1, 3, 3) and mask[0].all()
    expected = [[True, True, False], [True, True, False], [False, False, True]]
    np.testing.assert_array_equal(mask[1, 0], expected)
    assert shift_mask((4, 4), (2, 2), (0, 0)).all()


def windows_of_neighbours(size, window, shift):
    """Returns for each token which others lie in its window and were its neighbours before."""
    seen = np.zeros((size[0] * size[1],) * 2, bool)
    places = np.arange(size[0] * size[1]).reshape(size)
    for i, place in np.ndenumerate(places):
        for j, other in np.ndenumerate(places):
            cells = [
                [(n - s) // w for n, s, w in zip(index, shift, window, strict=True)]
                for index in (i, j)
            ]
            seen[place, other] = cells[0] == cells[1]
    return seen


@pytest.mark.parametrize(
    ("size", "window", "shift"),
    [((4, 4), (2, 2), (1, 1)), ((6, 4), (3, 4), (1, 0)), ((4, 6), (2, 3), (1, 2))],
)
def test_a_shifted_map_sees_the_windows_of_a_moved_grid(size, window, shift):
    tokens = size[0] * size[1]
    one_hot = jnp.eye(tokens).reshape(1, *size, tokens)

    def who(windows, mask):
        mask = jnp.ones((windows.shape[1], 1, 1, 1), bool) if mask is None else mask
        return jnp.einsum("WTS,BWSD->BWTD", mask[:, 0].astype(jnp.float32), windows)

    for pad_first in (True, False):
        seen = attend_in_windows(one_hot, who, window=window, shift=shift, pad_first=pad_first)
        seen = np.asarray(seen).reshape(tokens, tokens) > 0
        np.testing.assert_array_equal(seen, windows_of_neighbours(size, window, shift))


@pytest.mark.parametrize("kind", [MultiHeadAttention, CosineAttention])
@pytest.mark.parametrize("masked", [True, False])
def test_windows_side_by_side_are_windows_one_by_one(kind, masked):
    attn = kind(8, 2, dtype="float32", param_dtype="float32", rngs=nnx.Rngs(0))
    windows = jax.random.normal(jax.random.key(0), (3, 4, 9, 8))
    bias = jax.random.normal(jax.random.key(1), (1, 2, 9, 9))
    mask = jnp.asarray(shift_mask((6, 6), (3, 3), (1, 2))) if masked else None
    one, other = (
        form(attn, windows, bias=bias, mask=mask, train=False, rngs=None)
        for form in (attend_one_by_one, attend_side_by_side)
    )
    np.testing.assert_allclose(one, other, atol=1e-4 * float(one.std()))


def test_padding_is_seen_and_cut_off_again():
    def mean(windows, mask):
        return jnp.broadcast_to(windows.mean(axis=2, keepdims=True), windows.shape)

    ones = jnp.ones((2, 3, 5, 1))
    means = attend_in_windows(ones, mean, window=(2, 4), shift=(0, 0), pad_first=True)
    assert means.shape == ones.shape
    np.testing.assert_allclose(means[0, :, :, 0], [[1] * 4 + [0.25]] * 2 + [[0.5] * 4 + [0.125]])


@pytest.mark.parametrize("window", [(2, 2), (3, 4), (1, 5)])
def test_relative_position_index_counts_steps(window):
    index = relative_position_index(window)
    rows, columns = np.divmod(np.arange(window[0] * window[1]), window[1])
    steps = {}
    for i, j in np.ndindex(index.shape):
        step = (rows[i] - rows[j], columns[i] - columns[j])
        assert steps.setdefault(step, index[i, j]) == index[i, j]
    assert sorted(steps.values()) == list(range((2 * window[0] - 1) * (2 * window[1] - 1)))
    assert [number for _, number in sorted(steps.items())] == sorted(steps.values())


def test_log_spaced_coordinates():
    table = log_spaced_coordinates((3, 2), (3, 2)).reshape(5, 3, 2)
    assert table.dtype == np.float32
    edge, half = np.log2(9) / 3, np.log2(5) / 3
    np.testing.assert_allclose(table[:, 0, 0], [-edge, -half, 0, half, edge], rtol=1e-6)
    np.testing.assert_allclose(table[0, :, 1], [-edge, 0, edge], rtol=1e-6)
    larger = log_spaced_coordinates((5, 5), (3, 3)).reshape(9, 9, 2)
    np.testing.assert_array_equal(larger[2:7, 0, 0], table[:, 0, 0])  # the same steps
    np.testing.assert_allclose(larger[-1, 0, 0], np.log2(17) / 3, rtol=1e-6)
