"""Checks of numbers that users give; each error is one sentence."""

import math
from typing import Any

from jaxvision.errors import InputError


def check_ranges(group: str, options: Any, **ranges: tuple[int | float, int | float]) -> None:
    """Raises an InputError unless each option lies in its range.

    Args:
      group: Name of the group of options in the schema, such as "optimizer"; "": those outside any
        group.
      options: Options, with one attribute for each name.
      **ranges: Least and greatest value of each option.
    """
    for name, (least, greatest) in ranges.items():
        value = getattr(options, name)
        if not least <= value <= greatest:
            option = f"{group}.{name}" if group else name
            raise InputError(f"--config.{option} must be in {least}..{greatest}, got {value}.")


def check_probability(option: str, value: float) -> None:
    """Raises an InputError unless the value lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise InputError(f"{option} is a probability in [0, 1], but is {value}.")


def check_interval(option: str, pair: Any, *, least: float, greatest: float = math.inf) -> None:
    """Raises an InputError unless the pair is (low, high) with least <= low <= high <= greatest."""
    if not are_numbers(pair, 2) or not least <= pair[0] <= pair[1] <= greatest:
        end = "" if greatest == math.inf else f" and at most {greatest:g}"
        raise InputError(f"{option} is (low, high), both at least {least:g}{end}, but is {pair}.")


def check_limits(option: str, values: Any, greatest: dict[str, float]) -> None:
    """Raises an InputError unless each value lies between 0 and its greatest.

    Args:
      option: Name of the option that gives the values, for the message.
      values: Values of the option, one for each name.
      greatest: Greatest allowed number for each value, by its name; math.inf: no limit.
    """
    if not are_numbers(values, len(greatest)) or any(
        not 0 <= value <= end for value, end in zip(values, greatest.values(), strict=True)
    ):
        names = ", ".join(
            name if end == math.inf else f"{name} (at most {end:g})"
            for name, end in greatest.items()
        )
        raise InputError(f"{option} is ({names}), each at least 0, but is {values}.")


def are_numbers(values: Any, count: int) -> bool:
    """Returns whether there are `count` finite numbers."""
    return len(values) == count and all(
        isinstance(value, (int, float)) and math.isfinite(value) for value in values
    )
