"""The two exceptions whose message is all that a user needs to see."""

import difflib


class InputError(ValueError):
    """A wrong configuration, missing data or an unusable file.

    Its message is one sentence or two: what was expected, what came, what to type. `launch.py`
    prints it without a traceback and exits with code 2.
    """


class RunError(RuntimeError):
    """A run that could not reach its end, and left its newest checkpoint unharmed.

    Its message says why and what to do. `launch.py` prints it without a traceback and exits with
    code 1.
    """


def shorten(text: object, length: int = 200) -> str:
    """Returns text of a file as a message may show it: printable, on one line, not endless."""
    shown = str(text)
    if len(shown) > length:
        shown = f"{shown[: length // 2]} ... {shown[-length // 2 :]}"
    return "".join(c if c.isprintable() else "?" for c in shown)


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises an InputError with the nearest choice if `value` is none of them."""
    if value not in choices:
        close = difflib.get_close_matches(value, choices, n=1, cutoff=0.4)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        raise InputError(f"{option} must be one of {', '.join(choices)}, got '{value}'{hint}")
