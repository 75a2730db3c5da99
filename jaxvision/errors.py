"""The two exceptions whose message is all that a user needs to see."""

import difflib
import re

# Control characters, those that turn the direction of text, other line ends, and bytes of a file's
# name that are no text.
_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class InputError(ValueError):
    """A wrong configuration, missing data or an unusable file.

    Its message is one sentence or two: what was expected, what came, what to type. The command
    line prints it without a traceback and exits with code 2.
    """


class RunError(RuntimeError):
    """A run that could not reach its end, and left its newest checkpoint unharmed.

    Its message says why and what to do. `jaxvision train` prints it without a traceback and exits
    with code 1.
    """


def printable(text: object, *, lines: bool = False) -> str:
    r"""Returns text with what a terminal would obey, and not show, written as `\x1b`.

    Names of files and classes may hold anything, and are printed everywhere.

    Args:
      text: Text to print, or anything that becomes one by `str`.
      lines: Whether line ends and tabs stay.
    """

    def escape(match: re.Match[str]) -> str:
        character = match[0]
        return character if lines and character in "\n\t" else ascii(character)[1:-1]

    return _OBEYED.sub(escape, str(text))


def shorten(text: object, length: int = 200) -> str:
    """Returns text of a file as a message may show it: printable, on one line, not endless."""
    shown = str(text)
    if len(shown) > length:
        shown = f"{shown[: length // 2]} ... {shown[-length // 2 :]}"
    return printable(shown)


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises an InputError with the nearest choice if `value` is none of them."""
    if value not in choices:
        close = difflib.get_close_matches(value, choices, n=1, cutoff=0.4)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        raise InputError(f"{option} must be one of {', '.join(choices)}, got '{value}'{hint}")


def reason(error: BaseException) -> str:
    """Returns what an error says, without the number and the path that the system adds."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
