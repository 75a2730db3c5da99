"""Operations that move pixels, on the devices: one uint8 image [height, width, 3] each."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

Pixels = UInt8[Array, "height width 3"]


def warp(image: Pixels, coefficients: Int[Array, "2 2 3"], *, bilinear: bool) -> Pixels:
    """Returns the image after a warp of `warp_matrix`, as Pillow's; outside it is black.

    Args:
      image: Image to move.
      coefficients: Matrix in whole numbers, see `warp_coefficients`.
      bilinear: Whether four pixels are interpolated, or else the nearest is taken.
    """
    height, width = image.shape[:2]
    x, y = jnp.arange(width)[None], jnp.arange(height)[:, None]
    high, low = (
        part[:, 0, None, None] * x[None] + part[:, 1, None, None] * y[None] + part[:, 2, None, None]
        for part in coefficients
    )
    place = high + (low >> 16)  # [2, height, width]: x and y, in units of 2^-16
    sides = jnp.array([width, height])[:, None, None]
    half = (1 << 15) if bilinear else 0  # a place is that of a pixel's centre there
    inside = ((place + half >= 0) & (place + half < sides << 16)).all(axis=0)
    first = place >> 16
    left, top = jnp.clip(first, 0, sides - 1)
    if bilinear:
        right, below = jnp.clip(first + 1, 0, sides - 1)
        fraction = ((place & 0xFFFF) + (low & 0xFFFF) / jnp.float32(1 << 16)) / (1 << 16)
        warped = _interpolate(image, top, left, below, right, fraction.astype(jnp.float32))
        warped = warped.astype(jnp.uint8)  # cut, as Pillow does
    else:
        warped = image[top, left]
    return jnp.where(inside[..., None], warped, jnp.uint8(0))


def warp_coefficients(
    matrix: tuple[float, float, float, float, float, float],
    *,
    bilinear: bool,
) -> np.ndarray:
    """Returns a matrix of `warp_matrix` in whole numbers, int32 [high and low, x and y, 3].

    float32 would decide otherwise than Pillow about pixels at the border. The high numbers are in
    units of 2^-16, as Pillow's own of the nearest pixel, the low ones in units of 2^-32.
    """
    rows = np.array(matrix, np.float64).reshape(2, 3)
    rows[:, 2] += rows[:, :2].sum(axis=1) / 2 - (0.5 if bilinear else 0.0)
    if not bilinear:
        high = np.floor(rows * 65536 + 0.5)
        return np.stack([high, np.zeros_like(high)]).astype(np.int32)
    high = np.floor(rows * 65536)
    low = np.floor((rows * 65536 - high) * 65536 + 0.5)
    return np.stack([high, low]).astype(np.int32)


def affine(image: Pixels, matrix: Float[Array, "2 3"], *, reflect: bool = False) -> Pixels:
    """Returns the image whose pixel (x, y) is the input's at `matrix` @ (x, y, 1), interpolated.

    As OpenCV's bilinear warp: what is outside is black, also in the mean of four pixels.

    Args:
      image: Image to move.
      matrix: Matrix between places, which are counted from the centre of the first pixel.
      reflect: Whether the image is mirrored outside instead.
    """
    height, width = image.shape[:2]
    x, y = jnp.arange(width)[None], jnp.arange(height)[:, None]
    place = jnp.stack([row[0] * x + row[1] * y + row[2] for row in matrix])
    first = jnp.floor(place)
    left, top = first.astype(jnp.int32)
    if reflect:
        top, below = (mirror(rows, height) for rows in (top, top + 1))
        left, right = (mirror(columns, width) for columns in (left, left + 1))
        mean = _interpolate(image, top, left, below, right, place - first)
    else:
        wide = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
        rows, columns = (
            [jnp.clip(start + offset, 0, side + 1) for offset in (1, 2)]
            for start, side in ((top, height), (left, width))
        )
        mean = _interpolate(wide, rows[0], columns[0], rows[1], columns[1], place - first)
    return jnp.round(mean).astype(jnp.uint8)


def rotation_matrix(
    degrees: Float[Array, ""],
    height: int,
    width: int,
    *,
    shift: tuple[Float[Array, ""], Float[Array, ""]] | None = None,
    scale: Float[Array, ""] | None = None,
) -> Float[Array, "2 3"]:
    """Returns the matrix of `affine` that turns about the centre, scales, and then shifts.

    Args:
      degrees: Angle in degrees, counter-clockwise.
      height: Height of the image, in pixels.
      width: Width of the image, in pixels.
      shift: Shifts to the right and down, in pixels; None: none.
      scale: Scaling factor; above 1 enlarges; None: 1.
    """
    angle = degrees * (jnp.pi / 180)
    cos, sin = (
        function(angle) / (1.0 if scale is None else scale) for function in (jnp.cos, jnp.sin)
    )
    turn = jnp.array([[cos, -sin], [sin, cos]])
    middle = jnp.array([(width - 1) / 2, (height - 1) / 2])
    moved = middle if shift is None else middle + jnp.stack(shift)
    return jnp.concatenate([turn, (middle - turn @ moved)[:, None]], axis=1)


def _interpolate(
    image: Pixels,
    top: jax.Array,
    left: jax.Array,
    below: jax.Array,
    right: jax.Array,
    fraction: jax.Array,
) -> Float[Array, "rows columns 3"]:
    across, down = fraction[..., None]

    def row(rows: jax.Array) -> jax.Array:
        start, end = (image[rows, columns].astype(jnp.float32) for columns in (left, right))
        return start + (end - start) * across

    upper, lower = row(top), row(below)
    return upper + (lower - upper) * down


def mirror(places: Int[Array, "..."], side: int) -> Int[Array, "..."]:
    """Returns where a place outside is found in the image mirrored at its edge pixels."""
    if side == 1:
        return jnp.zeros_like(places)
    period = 2 * (side - 1)
    places = places % period
    return jnp.minimum(places, period - places)
