"""`jaxvision` or `python -m jaxvision`: trains models, looks at them, converts and uses them.

Exit codes: 0 done, 1 a comparison that failed, 2 a wrong argument or file, 130 interrupted.
"""

import argparse
import os
import sys
from typing import NoReturn

from jaxvision import __version__
from jaxvision.command_line import (
    examples_last,
    fail,
    leave_closed_pipe,
    program_name,
    quiet_libraries,
    show_progress,
)
from jaxvision.commands import (
    average,
    caption,
    configs,
    convert,
    data,
    embed,
    explain,
    models,
    parity,
    predict,
    prepare,
    probe,
    profile,
    push,
    report,
    score,
    serve,
    soup,
    train,
    zeroshot,
)
from jaxvision.errors import InputError

# A new command is one import and one entry here.
_COMMANDS = {
    "train": train,
    "configs": configs,
    "models": models,
    "profile": profile,
    "push": push,
    "parity": parity,
    "convert": convert,
    "data": data,
    "prepare": prepare,
    "report": report,
    "average": average,
    "soup": soup,
    "probe": probe,
    "predict": predict,
    "zeroshot": zeroshot,
    "explain": explain,
    "embed": embed,
    "caption": caption,
    "serve": serve,
    "score": score,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(message, f"See `{self.prog} --help`.")
        sys.exit(2)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    program = program_name()
    parser = _Parser(
        prog=program,
        description="Vision models and a trainer in JAX.",
        epilog=f"For example: {program} train --config=quickstart --workdir=runs/demo",
    )
    parser.add_argument("--version", action="version", version=f"jaxvision {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        about, examples = examples_last(command.__doc__ or "", f"{program} {name}", command=name)
        sub = commands.add_parser(
            name,
            help=about.splitlines()[0],
            description=about,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=getattr(command, "run", None))
    return parser


def main(argv: list[str]) -> int:
    """Runs a command; returns the exit code.

    Args:
      argv: Arguments without the program's name.
    """
    if argv[:1] == ["train"]:  # absl reads its flags, not argparse
        return train.main([f"{program_name()} train", *argv[1:]])
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


def console() -> int:
    """Runs what was typed; returns the exit code."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may come next
        import argcomplete

        argcomplete.autocomplete(make_parser())
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(console())
