"""Sizes of images, as users give them."""

from typing import Any

Size = int | tuple[int, int]  # pixels: one side, or (height, width)


def is_size(value: Any) -> bool:
    """Returns whether a value is pixels, a whole number or (height, width)."""
    sides = value if isinstance(value, tuple) else (value, value)
    return len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)


def sides(size: Size) -> tuple[int, int]:
    """Returns (height, width)."""
    return (size, size) if isinstance(size, int) else size
