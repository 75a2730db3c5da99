"""What the command line does before and around a run: process settings and clear errors.

Imports nothing heavy: a mistyped option is answered at once.
"""

import contextlib
import difflib
import logging
import multiprocessing
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn

from absl import flags

from jaxvision.errors import printable

PROGRESS_LOCK = threading.RLock()  # of the line of `show_progress`
_progress = ""  # that line


def use_deterministic_kernels() -> None:
    """Lets XLA take only GPU kernels that add in a fixed order; JAX must not have started yet.

    Without it two runs differ in the last bits, and a resumed run from the uninterrupted one. A CPU
    is deterministic anyway.
    """
    add_xla_flag("--xla_gpu_deterministic_ops=true")


def add_xla_flag(flag: str) -> None:
    """Gives XLA one more flag; JAX must not have started yet, and XLA aborts on unknown ones."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def quiet_libraries() -> None:
    """Leaves to our own log what matters; a failed save alone is hundreds of lines of orbax."""
    if logging.lastResort is not None:  # of warnings, where no log is set up
        logging.lastResort.setFormatter(LogFormatter())
    for library in ("jax", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # fonts without bold
    for library in ("absl", "asyncio"):  # of orbax and tfds
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    report = sys.unraisablehook

    def report_others(unraisable: "sys.UnraisableHookArgs") -> None:
        text = str(unraisable.exc_value)
        if "Event loop is closed" not in text:  # reads after one has failed
            report(unraisable)

    sys.unraisablehook = report_others


def program_name() -> str:
    """Returns how `jaxvision` was called."""
    is_module = os.path.basename(sys.argv[0]) == "__main__.py"
    return "python -m jaxvision" if is_module else "jaxvision"


def examples_last(text: str, program: str, *, command: str) -> tuple[str, str]:
    """Returns what a command does, and the examples of it as its caller types them.

    Args:
      text: Docstring of the command, with a paragraph that begins with "For example:".
      program: Words that called the command, such as "python -m jaxvision train".
      command: Name of the command.
    """
    paragraphs = text.strip().split("\n\n")
    examples = [each for each in paragraphs if each.startswith("For example:")]
    about = [each for each in paragraphs if each not in examples]
    typed = "\n\n".join(examples).replace(f"jaxvision {command}", program)
    return "\n\n".join(about), typed


def split_model_options(argv: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the other arguments, and (name, text) of each --config.model.kwargs.NAME=TEXT.

    Which names there are depends on the model, which absl knows nothing of.
    """
    others, options, arguments = [], [], iter(argv)
    for argument in arguments:
        option = re.fullmatch(r"--?config\.model\.kwargs(?:\.([\w.]+))?(?:=(.*))?", argument, re.S)
        if option is None:
            others.append(argument)
        else:
            text = next(arguments, "") if option[2] is None else option[2]
            options.append((option[1] or "", text))
    return others, options


def explain_config_error(error: Exception, argv: Sequence[str], options: Sequence[str]) -> str:
    """Returns what is wrong with an option or a config file; a file may raise anything.

    Args:
      error: Exception that absl or ml_collections raised while they read the flags.
      argv: Command line that was read.
      options: Dotted names of all options and of their groups, as in `optimizer.learning_rate`.
    """
    typed = [match[1] for word in argv if (match := re.match(r"--?config\.([^=]+)", word))]
    for name in typed:
        if name not in options and not name.startswith("model.kwargs."):
            return f"There is no option --config.{name}{_suggestion(name, options)}"
        inside = [option for option in options if option.startswith(f"{name}.")]
        if inside and f"--config.{name}=" in str(error):
            return (
                f"--config.{name} is a group: set its options one by one, as in "
                f"--config.{inside[0]}=VALUE."
            )
    if isinstance(error, flags.UnrecognizedFlagError) and "Did you mean" not in str(error):
        if error.flagname.startswith("config."):
            return "--config=FILE must be given for options to be set."
        return f"Unknown command line flag {error.flagname!r}" + _suggestion(
            error.flagname, options
        )
    if isinstance(error, (OSError, SyntaxError, TypeError, ValueError, flags.Error)):
        return str(error)
    cause = error.args[0] if error.args and isinstance(error.args[0], KeyError) else error
    option = re.match(r"""(?:Key )?['"](\w+)['"]""", str(cause.args[0] if cause.args else ""))
    if isinstance(cause, KeyError) and option:  # of ml_collections
        if any(name.startswith("model.kwargs.") for name in typed):
            hint = re.search("Did you mean .*", str(cause.args[0]))
            return f"There is no option {option[1]!r}. {hint[0] if hint else ''}".strip()
        return f"There is no option {option[1]!r}{_suggestion(option[1], options)}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    library = "ml_collections" in place.filename
    where = "" if library else f" ({place.filename}, line {place.lineno})"
    return f"The config file fails with {type(error).__name__}: {error}{where}."


def _suggestion(name: str, options: Sequence[str]) -> str:
    nearest = nearest_option(name, options)
    return "." if nearest is None else f"; did you mean --config.{nearest}?"


def nearest_option(name: str, options: Sequence[str]) -> str | None:
    """Returns the option that was probably meant, in any group; None: nothing is like it.

    Args:
      name: Dotted name that is no option, such as `optimizer.lr` or `epochs`.
      options: Dotted names of all options and of their groups.
    """
    group, _, leaf = name.rpartition(".")

    def likeness(option: str) -> float:
        its_group, _, its_leaf = option.rpartition(".")
        words = its_leaf.split("_")
        if leaf == its_leaf:
            score = 1.0
        elif leaf == "".join(word[0] for word in words) and len(words) > 1:  # lr
            score = 0.95
        elif set(leaf.split("_")) < set(words):  # epochs
            score = 0.8
        else:
            score = 0.9 * difflib.SequenceMatcher(None, leaf, its_leaf).ratio()
        if group in options:  # well known, or mistyped
            return score + 0.1 * (group == its_group)
        return score + 0.1 * difflib.SequenceMatcher(None, group, its_group).ratio()

    parent = name.rpartition(".")[0]
    if parent in options and not any(option.startswith(f"{parent}.") for option in options):
        return parent  # an option that something was hung on
    best = max(options, key=likeness)
    return best if likeness(best) >= 0.65 else None


class LogFormatter(logging.Formatter):
    """Writes log messages without anything that a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a message."""
        return printable(super().format(record), lines=True)


def say(text: str) -> None:
    """Prints a result, on stdout."""
    sys.stdout.write(f"{printable(text, lines=True)}\n")
    sys.stdout.flush()


def end_interrupted(saved: str = "") -> NoReturn:
    """Ends the process at once after SIGINT: at its normal exit, a half-done compilation crashes.

    Args:
      saved: Sentence on what is saved.
    """
    for worker in multiprocessing.active_children():
        worker.kill()
    show_progress()
    sys.stderr.write(f"Interrupted; {saved}\n" if saved else "Interrupted.\n")
    sys.stderr.flush()
    os._exit(130)


def leave_closed_pipe() -> None:
    """Sends to nowhere what stdout still holds, after its reader, such as `| head`, has gone."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_progress(text: str = "") -> None:
    """Replaces the line that says what is going on, where somebody is watching; "" removes it."""
    global _progress
    if sys.stderr.isatty():
        with PROGRESS_LOCK:
            _progress = printable(text)[: _columns() - 1]  # a longer one would wrap
            sys.stderr.write(f"\r\033[K{_progress}")
            sys.stderr.flush()


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):  # no terminal of the system's
        return 80


class LogHandler(logging.StreamHandler):
    """Writes the log to stderr, above the line of `show_progress`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        with PROGRESS_LOCK:
            line = _progress
            show_progress()
            super().emit(record)
            if line:
                show_progress(line)


def fail(message: str, remedy: str = "") -> None:
    """Prints an error as one line on stderr.

    Args:
      message: Message that says what is wrong; of several lines, those that say it.
      remedy: Sentence on the remedy that is added.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    missing = [line for line in lines if "No such file or directory" in line]
    if any(line.startswith("Traceback") for line in lines):  # an error inside the config file
        lines = [lines[-1].split("Error: ", 1)[-1]]
    elif missing:
        lines = missing[:1]
    text = " ".join(lines)
    stop = "" if text.endswith((".", "?")) else "."
    with PROGRESS_LOCK:  # or the line of a wait would come between
        show_progress()
        sys.stderr.write(printable(f"error: {text}{stop} {remedy}".rstrip()) + "\n")
