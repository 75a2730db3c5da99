"""Sizes of images, as users give them."""

from typing import Any

Size = int | tuple[int, int]  # pixels: one side, or (height, width)
MAX_SIDE = 16_384  # pixels: an image of that side already takes 3 GiB in float32


def is_size(value: Any) -> bool:
    """Returns whether a value is pixels, a whole number or (height, width), up to MAX_SIDE."""
    sides = value if isinstance(value, tuple) else (value, value)
    return len(sides) == 2 and all(type(side) is int and 0 < side <= MAX_SIDE for side in sides)


def sides(size: Size) -> tuple[int, int]:
    """Returns (height, width)."""
    return (size, size) if isinstance(size, int) else size
