"""`python -m jaxvision`: looks at models, compares, converts and uses them; launch.py trains.

Exit codes: 0 done, 1 a comparison that failed, 2 a wrong argument or file, 130 interrupted.
"""

import argparse
import sys
from typing import NoReturn

from jaxvision.command_line import fail, leave_closed_pipe, quiet_libraries, show_progress
from jaxvision.commands import (
    average,
    caption,
    convert,
    embed,
    models,
    parity,
    predict,
    probe,
    profile,
    push,
    score,
    soup,
)
from jaxvision.errors import InputError

# A new command is one import and one entry here.
_COMMANDS = {
    "models": models,
    "profile": profile,
    "push": push,
    "parity": parity,
    "convert": convert,
    "average": average,
    "soup": soup,
    "probe": probe,
    "predict": predict,
    "embed": embed,
    "caption": caption,
    "score": score,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(message, f"See `{self.prog} --help`.")
        sys.exit(2)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = _Parser(prog="python -m jaxvision", description="Vision models in JAX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        text = (command.__doc__ or "").strip()
        sub = commands.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(argv: list[str]) -> int:
    """Runs a command; returns the exit code.

    Args:
      argv: Arguments without the program's name.
    """
    arguments = make_parser().parse_args(argv)
    quiet_libraries()
    try:
        return arguments.run(arguments)
    except InputError as error:
        show_progress()
        fail(str(error))
        return 2
    except KeyboardInterrupt:
        show_progress()
        return 130
    except BrokenPipeError:  # `| head` has read enough
        leave_closed_pipe()
        return 0
    except OSError as error:
        show_progress()
        fail(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
