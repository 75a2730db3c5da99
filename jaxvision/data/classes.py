"""Lists of class names: what a label means, compared by name wherever two lists meet."""

import os
from collections.abc import Collection, Sequence

from jaxvision.data.class_lists import readable
from jaxvision.data.source import DataError
from jaxvision.errors import reason

_SHOWN = 3


def one_line(name: str) -> str:
    """Returns a class name as a text file with one name a line can hold it."""
    return " ".join(name.splitlines()).encode("utf-8", "backslashreplace").decode()


def class_difference(found: Collection[str], expected: Collection[str]) -> str:
    """Returns how one list of classes differs from another: "has 'fox' and lacks 'cat'"; "": not.

    Args:
      found: Class names that are there, in any order.
      expected: Class names that they are compared with.
    """
    found, expected = set(readable(found)), set(readable(expected))
    more, less = found - expected, expected - found
    phrases = [f"has {some_names(more)}"] * bool(more) + [f"lacks {some_names(less)}"] * bool(less)
    return " and ".join(phrases)


def check_class_names(
    found: Collection[str], expected: Sequence[str] | None, *, where: str
) -> None:
    """Checks that data has no class beyond those that its labels are places in.

    Args:
      found: Class names of the data.
      expected: Class names by label; None: those of the data.
      where: Name of the data, for the message.

    Raises:
      DataError: if there are others, naming the difference.
    """
    unknown = set(found) - set(expected) if expected is not None else ()
    if expected is not None and unknown:
        lacking, several = set(expected) - set(found), len(unknown) > 1
        raise DataError(
            f"{where} has the class{'es' if several else ''} {some_names(unknown)}, not among the"
            f" {len(expected)} classes of the run"
            f"{f', of which it lacks {some_names(lacking)}' if lacking else ''}; rename or remove"
            f" {'them' if several else 'it'}, or give the data of the run."
        )


def class_order(theirs: Sequence[str], ours: Sequence[str]) -> tuple[int, ...] | None:
    """Returns the place in one list of every class of another; None where the sets differ."""
    theirs, ours = readable(theirs), readable(ours)  # a list of ImageNet's folders, or of names
    if len(set(theirs)) != len(theirs) or sorted(theirs) != sorted(ours):
        return None
    place = {name: label for label, name in enumerate(theirs)}
    return tuple(place[name] for name in ours)


def read_class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """Returns the class names in a text file, one a line; nothing if there is none.

    Raises:
      DataError: if it cannot be read as text.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return tuple(file.read().splitlines())
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as text with one class name a line ({reason(error)})."
        ) from error


def some_names(names: Collection[str]) -> str:
    """Returns the first of some class names, and how many more there are."""
    shown = ", ".join(map(repr, sorted(names)[:_SHOWN]))
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
