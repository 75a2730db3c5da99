"""Windows: a neighbourhood around each token, and Swin's tiles that shift from block to block."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxvision.layers.attention import pad_tokens
from jaxvision.layers.tap import tap_facts

Sides = tuple[int, int]  # along rows and columns, in tokens
# Of windows [batch, windows, tokens, channels] and a mask [windows, 1, tokens, tokens] or None.
Attend = Callable[[jax.Array, jax.Array | None], jax.Array]


@functools.cache
def local_mask(height: int, width: int, k: int) -> Bool[np.ndarray, "tokens tokens"]:
    """Returns which token may attend to which: only those in the k x k neighbourhood around it.

    Args:
      height: Number of rows of the token grid.
      width: Number of columns of the token grid; tokens are numbered row by row.
      k: Side of the neighbourhood in tokens, odd.

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


def window_partition(
    inputs: Float[Array, "batch height width channels"], window: Sides
) -> Float[Array, "batch_windows tokens channels"]:
    """Returns the windows of a map: those of the first image row by row, then the next image's.

    Args:
      inputs: Map whose sides are whole numbers of windows.
      window: Rows and columns of a window.
    """
    batch, height, width, channels = inputs.shape
    rows, columns = window
    tiles = inputs.reshape(batch, height // rows, rows, width // columns, columns, channels)
    tiles = tiles.transpose(0, 1, 3, 2, 4, 5)  # batch, windows down, across, rows, columns
    return tiles.reshape(-1, rows * columns, channels)


def window_reverse(
    windows: Float[Array, "batch_windows tokens channels"], window: Sides, size: Sides
) -> Float[Array, "batch height width channels"]:
    """Returns the map that `window_partition` cut into these windows.

    Args:
      windows: Windows of all images.
      window: Rows and columns of a window.
      size: Rows and columns of the map.
    """
    (rows, columns), (height, width), channels = window, size, windows.shape[-1]
    tiles = windows.reshape(-1, height // rows, width // columns, rows, columns, channels)
    tiles = tiles.transpose(0, 1, 3, 2, 4, 5)  # batch, windows down, rows, across, columns
    return tiles.reshape(-1, height, width, channels)


@functools.cache
def shift_mask(
    size: Sides, window: Sides, shift: Sides
) -> Bool[np.ndarray, "windows 1 tokens tokens"]:
    """Returns which token may attend to which in each window of a map that was shifted.

    What the shift pushes out at one end comes in at the other: the last window of each row and
    column then holds tokens of both ends, which must not see each other.

    Args:
      size: Rows and columns of the map, whole numbers of windows.
      window: Rows and columns of a window.
      shift: Rows and columns that the map was shifted by, less than the window.

    Returns:
      True where row's token may attend to column's token; the second axis is for the heads.

    Source: Liu et al. 2021, Swin Transformer, figure 4.
    """
    (height, width), (rows, columns) = size, window
    parts = []
    for length, step in zip(size, shift, strict=True):
        parts.append(np.arange(length) >= length - step)  # came in from the other end
    part = 2 * parts[0][:, None] + parts[1][None, :]
    part = part.reshape(height // rows, rows, width // columns, columns)
    part = part.transpose(0, 2, 1, 3).reshape(-1, rows * columns)
    mask = (part[:, :, None] == part[:, None, :])[:, None]
    mask.flags.writeable = False  # the cache hands out the same array again
    return mask


def attend_in_windows(
    inputs: Float[Array, "batch height width channels"],
    attend: Attend,
    *,
    window: Sides,
    shift: Sides,
    pad_first: bool,
) -> Float[Array, "batch height width channels"]:
    """Returns the map after attention inside each window of the shifted map.

    Args:
      inputs: Map of any size; zeros at its ends fill the last windows.
      attend: Function (windows [batch, windows, tokens, channels], mask [windows, 1, tokens,
        tokens] or None) -> windows, such as `attend_one_by_one` of an attention.
      window: Rows and columns of a window.
      shift: Rows and columns to shift by, against the order of the tokens; (0, 0): none.
      pad_first: Whether to pad before the shift, as torchvision does, or after it, as timm does.
        The zeros take part in the attention in both.
    """
    batch, height, width, _ = inputs.shape
    rows, columns = (-(-n // side) * side for n, side in zip((height, width), window, strict=True))
    padding = ((0, 0), (0, rows - height), (0, columns - width), (0, 0))

    def pad(grid):
        return grid if (rows, columns) == (height, width) else jnp.pad(grid, padding)

    def crop(grid):
        return grid[:, :height, :width]

    def roll(grid, steps):
        return jnp.roll(grid, steps, axis=(1, 2)) if any(shift) else grid

    back = (-shift[0], -shift[1])
    shifted = roll(pad(inputs), back) if pad_first else pad(roll(inputs, back))
    mask = jnp.asarray(shift_mask((rows, columns), window, shift)) if any(shift) else None
    windows = window_partition(shifted, window)
    count = (rows // window[0]) * (columns // window[1])
    facts = {"grid": (height, width), "window": window, "shift": shift, "pad_first": pad_first}
    with tap_facts(batch=batch, **facts):
        windows = attend(windows.reshape(batch, count, *windows.shape[1:]), mask)
    shifted = window_reverse(jax.lax.collapse(windows, 0, 2), window, (rows, columns))
    return crop(roll(shifted, shift)) if pad_first else roll(crop(shifted), shift)


def attend_one_by_one(
    attn: Any,
    windows: Float[Array, "batch windows tokens width"],
    *,
    bias: Float[Array, "1 heads tokens tokens"],
    mask: Bool[Array, "windows 1 tokens tokens"] | None,
    train: bool,
    rngs: nnx.Rngs | None,
) -> Float[Array, "batch windows tokens width"]:
    """Returns the windows after attention, each an example of its own.

    Args:
      attn: Attention of tokens to themselves.
      windows: Windows of all images.
      bias: Bias of every window.
      mask: Mask of each window, True where a token may attend.
      train: Whether the dropout is on.
      rngs: Source of randomness.
    """
    mask = None if mask is None else jnp.tile(mask, (len(windows), 1, 1, 1))
    examples = jax.lax.collapse(windows, 0, 2)
    return attn(examples, bias=bias, mask=mask, train=train, rngs=rngs).reshape(windows.shape)


def attend_side_by_side(
    attn: Any,
    windows: Float[Array, "batch windows tokens width"],
    *,
    bias: Float[Array, "1 heads tokens tokens"],
    mask: Bool[Array, "windows 1 tokens tokens"] | None,
    train: bool,
    rngs: nnx.Rngs | None,
) -> Float[Array, "batch windows tokens width"]:
    """Returns the same, with the windows of an image taken for more heads.

    All examples then have the same bias and mask, which cuDNN wants as one array: with windows as
    examples it is as large as the scores.

    Args:
      attn: Attention of tokens to themselves.
      windows: Windows of all images.
      bias: Bias of every window.
      mask: Mask of each window, True where a token may attend.
      train: Whether the dropout is on.
      rngs: Source of randomness.
    """
    heads, (_, count, size, _) = bias.shape[1], windows.shape
    of_heads = (1, count * heads, size, size)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (count, heads, size, size)).reshape(of_heads)
    tokens, biases, mask = pad_tokens(
        windows.swapaxes(1, 2),
        bias=jnp.tile(bias, (1, count, 1, 1)),
        mask=mask,
        multiple=2,
        num_heads=heads,
        implementation=attn.implementation,
        drops=train and attn.attention_dropout_rate > 0.0,
    )
    tokens = attn(tokens, bias=biases, mask=mask, num_sources=size, train=train, rngs=rngs)
    return tokens[:, :size].swapaxes(1, 2)


@functools.cache
def relative_position_index(window: Sides) -> Int[np.ndarray, "tokens tokens"]:
    """Returns the number of the step from each token of a window to each other.

    Args:
      window: Rows and columns of a window.

    Returns:
      For row's token and column's token, its place in a table of all (2 rows - 1) (2 columns - 1)
      steps: row by row, the most negative step of both first.

    Source: Liu et al. 2021, Swin Transformer, section 3.2, "Relative position bias".
    """
    rows, columns = np.divmod(np.arange(window[0] * window[1]), window[1])
    down = rows[:, None] - rows[None, :] + window[0] - 1
    across = columns[:, None] - columns[None, :] + window[1] - 1
    index = down * (2 * window[1] - 1) + across
    index.flags.writeable = False  # the cache hands out the same array again
    return index


@functools.cache
def log_spaced_coordinates(window: Sides, unit: Sides) -> Float[np.ndarray, "steps 2"]:
    """Returns the steps down and across between the tokens of a window, on a logarithmic scale.

    So the coordinates of a larger window than the trained one lie only a little outside.

    Args:
      window: Rows and columns of a window.
      unit: Rows and columns of the window that the model was trained with: its longest steps have
        the coordinate log2(9) / 3 = 1.06.

    Note: float32, and rounded as torch rounds it, since it stands for a trained model's inputs.

    Source: Liu et al. 2022, Swin Transformer V2, eq. 4, with steps scaled to +-8 and log base 8.
    """
    axes = []
    for side, trained in zip(window, unit, strict=True):
        steps = np.arange(-(side - 1), side, dtype=np.float32)
        steps = steps / np.float32(max(trained - 1, 1)) * np.float32(8)
        logs = np.log2((np.abs(steps) + np.float32(1)).astype(np.float64)).astype(np.float32)
        axes.append(np.sign(steps) * logs / np.float32(3))
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    grid.flags.writeable = False  # the cache hands out the same array again
    return grid
