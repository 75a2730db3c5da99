"""Where a token is: fixed sinusoids, and learned tables fitted to another grid."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@functools.cache
def sinusoids(
    length: int, channels: int, temperature: float = 10_000.0
) -> Float[np.ndarray, "length channels"]:
    """Returns fixed positions of words: sin on even channels, cos on odd ones.

    Channels 2i and 2i + 1 turn with the frequency temperature^(-2i / channels).

    Args:
      length: Number of positions, from 0.
      channels: Size of a token, even.
      temperature: Ratio of the longest wavelength to the shortest, for many channels.

    Raises:
      ValueError: if `channels` is odd; the message gives it.

    Source: Vaswani et al. 2017, Attention Is All You Need, section 3.5.
    """
    if channels % 2:
        raise ValueError(f"Sinusoids need an even number of channels, got {channels}.")
    frequencies = temperature ** -(np.arange(0, channels, 2) / channels)
    angles = np.arange(length)[:, None] * frequencies[None, :]
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, channels)
    table.flags.writeable = False  # the cache hands out the same array again
    return table


@functools.cache
def sincos_2d(
    height: int,
    width: int,
    channels: int,
    temperature: float = 10_000.0,
    *,
    with_longest: bool = True,
) -> Float[np.ndarray, "tokens channels"]:
    """Returns fixed positions: a quarter of the channels each for sin x, cos x, sin y and cos y.

    Args:
      height: Number of rows of the token grid.
      width: Number of columns of the token grid; tokens are numbered row by row.
      channels: Size of a token, a multiple of 4 and at least 8.
      temperature: Ratio of the longest to the shortest wavelength.
      with_longest: Whether the longest wavelength is among them, as in Beyer et al.; MAE's code
        stops one step before it, as sinusoids of words do.

    Raises:
      ValueError: if `channels` does not fit; the message gives it.

    Source: Beyer et al. 2022, Better plain ViT baselines for ImageNet-1k, section 2.
    """
    if channels % 4 or channels < 8:
        raise ValueError(f"2-D sinusoids need a multiple of 4 channels, >= 8, got {channels}.")
    frequencies = temperature ** -np.linspace(0.0, 1.0, channels // 4, endpoint=with_longest)
    y, x = np.divmod(np.arange(height * width), width)
    x, y = x[:, None] * frequencies[None, :], y[:, None] * frequencies[None, :]
    table = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
    table.flags.writeable = False  # the cache hands out the same array again
    return table


def resize_position_embedding(
    pos: Float[Array, "1 tokens width"],
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    num_prefix_tokens: int = 1,
    interpolation: str = "bicubic",
    antialias: bool = True,
) -> Float[Array, "1 new_tokens width"]:
    """Returns the table fitted to another grid by interpolation; prefix rows are kept.

    Args:
      pos: Table of positions: prefix rows (class token, ...), then the grid row by row.
      old_grid: Grid (rows, columns) that `pos` was made for.
      new_grid: Grid (rows, columns) that is wanted.
      num_prefix_tokens: Number of leading rows that have no place in the grid.
      interpolation: Kind of interpolation: "bicubic" or "bilinear".
      antialias: Whether to smooth before shrinking, as timm does; torchvision does not.

    Raises:
      ValueError: if `pos` does not have the prefix and the old grid; the message gives the counts.

    Note: equal to `torch.nn.functional.interpolate` with the same mode and `antialias` to 2e-6.
    """
    expected = num_prefix_tokens + old_grid[0] * old_grid[1]
    if pos.shape[1] != expected:
        raise ValueError(
            f"A grid of {old_grid} with {num_prefix_tokens} prefix tokens has {expected} "
            f"positions, but the table has {pos.shape[1]}: check old_grid and num_prefix_tokens."
        )
    if old_grid == new_grid:
        return pos
    prefix, grid = jnp.split(pos, [num_prefix_tokens], axis=1)
    width = pos.shape[-1]
    grid = grid.reshape(1, *old_grid, width)
    cubic = "cubic" if antialias else "cubic-pytorch"  # torch: a = -0.5 and a = -0.75
    method = {"bicubic": cubic, "bilinear": "linear"}[interpolation]
    grid = jax.image.resize(grid, (1, *new_grid, width), method=method, antialias=antialias)
    return jnp.concatenate([prefix, grid.reshape(1, -1, width)], axis=1)
