"""Types of arguments that several commands take."""

import argparse
import re


def count(text: str) -> int:
    """Returns a whole number of at least 1."""
    if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def counts(text: str) -> list[int]:
    """Returns whole numbers that commas separate."""
    return [count(part) for part in text.split(",")]


def image_size(text: str) -> tuple[int, int]:
    """Returns (height, width) of "224" or "288x224"."""
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)?", text):
        raise argparse.ArgumentTypeError(
            f"expected pixels as 224 or, height before width, as 288x224, got {text!r}"
        )
    height, _, width = text.partition("x")
    return int(height), int(width or height)
