"""Trains a model, evaluates or previews a run; the same command again resumes it.

Exit codes: 0 done, 2 wrong configuration or missing data, 143/130 stopped by a signal after saving,
1 anything else. A recipe card is Python and is executed.

For example: jaxvision train --config=vit_b16 --workdir=runs/a
             jaxvision train --config=vit_b16 --workdir=runs/a --mode=eval
"""

import argparse
import errno
import importlib
import inspect
import logging
import pathlib
import re
import shutil
import sys
import types
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxvision.cards import SCHEMA, find_card, list_cards, make_importable
from jaxvision.command_line import (
    LogFormatter,
    LogHandler,
    end_interrupted,
    examples_last,
    explain_config_error,
    fail,
    leave_closed_pipe,
    quiet_libraries,
    say,
    split_model_options,
    use_deterministic_kernels,
)
from jaxvision.errors import InputError, RunError
from jaxvision.files import newest_checkpoint, output_path, what_is_saved
from jaxvision.options.help import entries, option_comments, options_help
from jaxvision.options.length import drop_other_units
from jaxvision.options.options import Options, read_options
from jaxvision.terminal import nothing_shown_after, waiting

_MODES = {
    "train": "Trains, or resumes the run in the folder.",
    "eval": "Evaluates the newest checkpoint in the folder.",
    "preflight": "Tells memory, batch size and compile time of a run, and draws what it would see.",
    "find_lr": "Tries rising learning rates, and says which one to train with.",
}
_HELP = {
    f"{dashes}{name}" for name in ("help", "helpfull", "helpshort", "h") for dashes in ("-", "--")
}

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Recipe card by name or path, also with an argument: vit_b16, vit_b16:imagenet2012, mine.py.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "auto", ["auto", "on", "off"], "Join the other processes of a cluster."
)
_MODE = flags.DEFINE_enum("mode", "train", list(_MODES), "What to do, see above.")
_MEMORY = flags.DEFINE_float(
    "memory_gib",
    None,
    "Of --mode=preflight: memory of one device. Default: what it has.",
    lower_bound=0,
)
_FOR = flags.DEFINE_enum(
    "for",
    None,
    ["h100", "h200"],
    "Of --mode=preflight: the GPU to plan for, which need not be here. Default: the devices here.",
)
_OWN = tuple(
    flags.FLAGS[holder.name] for holder in (_CONFIG, _WORKDIR, _MODE, _DISTRIBUTED, _MEMORY, _FOR)
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a shell completes; absl and ml_collections read the command line themselves."""
    for flag in _OWN:
        argument: Any = parser.add_argument(
            f"--{flag.name}", choices=getattr(flag.parser, "enum_values", None), help=flag.help
        )
        if flag.name == _CONFIG.name:
            argument.completer = _complete_card
    for name in option_comments(inspect.getsource(_schema())):
        parser.add_argument(f"--config.{name}")


def _complete_card(prefix: str, **_: object) -> list[str]:
    """Returns the cards and files that an argument of --config may go on with."""
    files = pathlib.Path().glob(f"{prefix}*")
    paths = [f"{path}/" if path.is_dir() else str(path) for path in files]
    return [*list_cards(), *(path for path in paths if path.endswith((".py", "/")))]


def _schema() -> types.ModuleType:
    """Returns the module of all options."""
    make_importable()
    return importlib.import_module(f"configs.{SCHEMA}")


def _with_path(argv: list[str]) -> list[str]:
    """Returns the command line with the path of the recipe card in the place of its name."""
    words, before = [], ""
    for word in argv:
        if option := re.fullmatch(r"(--?config=)(.*)", word, re.S):
            word = option[1] + find_card(option[2])
        elif before in ("-config", "--config"):
            word = find_card(word)
        words.append(word)
        before = word
    return words


def _help(program: str) -> str:
    """Returns modes, flags and all options, with the values of the config file if one is given."""
    width = shutil.get_terminal_size((100, 24)).columns
    own = {}
    for flag in _OWN:
        default = f" Default: {flag.default}." if flag.default else ""
        own[f"--{flag.name}={flag.name.upper()}"] = f"{flag.help}{default}"
    config, schema = _CONFIG.value, _schema()
    if config is None:
        config, name = schema.get_config(), "configs/common.py"
    else:
        name = config_flags.get_config_filename(flags.FLAGS["config"])
    options = options_help(config, inspect.getsource(schema), width=width)
    about, examples = examples_last(__doc__ or "", program, command="train")
    return f"""{about}

Modes, as --mode=...:
{entries(_MODES, width=width)}

Flags:
{entries(own, width=width)}

Options, with the values of {name}:
{options}

{examples}"""


def _parse(argv: list[str]) -> None:
    """Reads flags and config; a mistake is one line and exit code 2."""
    is_script = argv[0].endswith(".py")
    program = f"python {argv[0]}" if is_script else argv[0]
    try:
        argv = _with_path(argv)
        argv, model_options = split_model_options(argv)
        sys.argv[1:] = argv[1:]  # where ml_collections looks for options
        rest = flags.FLAGS([word for word in argv if word not in _HELP])[1:]
        if rest:
            raise flags.Error(f"{rest[0]!r} is no option: --config.batch_size=64 would be one.")
        if not _HELP.isdisjoint(argv):
            say(_help(program))
            sys.exit(0)
        if _CONFIG.value is None or not _WORKDIR.value:
            raise flags.Error(
                "--config=CARD and --workdir=FOLDER must be given, and get_config() in the card "
                "must return the config."
            )
        _CONFIG.value.seed  # noqa: B018 - a file that could not be loaded says so only when it is read
        drop_other_units(_CONFIG.value, re.findall(r"^--?config\.([\w.]+)", "\n".join(argv), re.M))
        if _FOR.value and _MODE.value != "preflight":
            raise flags.Error(
                f"--for={_FOR.value} is of --mode=preflight: nothing else runs there."
            )
        if model_options:
            from jaxvision.train.model_flags import set_model_options

            set_model_options(_CONFIG.value, model_options)
    except BrokenPipeError:  # of `--help | head`
        leave_closed_pipe()
        sys.exit(0)
    except Exception as error:  # a config file is Python and may raise anything
        options = list(option_comments(inspect.getsource(_schema())))
        text = explain_config_error(error, argv, options)
        schema = "configs/common.py" if is_script else "`jaxvision configs common`"
        fail(text, f"See `{program} --help` and {schema}.")
        sys.exit(2)


def main(argv: list[str]) -> int:
    """Reads the command line and runs the chosen mode; returns the exit code.

    Args:
      argv: Arguments behind the program: a script, or the words that called this command.
    """
    make_importable()
    _parse(argv)
    handler = LogHandler()
    handler.setFormatter(LogFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    quiet_libraries()
    try:
        workdir = output_path(str(_WORKDIR.value))
        options = read_options(_CONFIG.value)
        if _MODE.value == "train":
            options.log.check_installed()
    except InputError as error:
        fail(str(error))
        return 2
    try:
        return _run(options, workdir)
    except KeyboardInterrupt:  # the second one, or one before there was anything to save
        trains = _MODE.value == "train"
        end_interrupted(what_is_saved(newest_checkpoint(workdir)) if trains else "")


def _run(options: Options, workdir: pathlib.Path) -> int:
    """Runs the chosen mode; returns the exit code."""
    if options.deterministic:
        use_deterministic_kernels()

    with waiting("Starting JAX"):
        import jax

        from jaxvision.compile_cache import cache_compilation
        from jaxvision.evaluation.evaluate import evaluate_fully
        from jaxvision.preflight.find_lr import find_lr
        from jaxvision.preflight.preflight import preflight
        from jaxvision.report.end import write_report
        from jaxvision.train.agreement import (
            agree_on_data,
            agree_on_run,
            agree_on_start,
            tell_others,
        )
        from jaxvision.train.distributed import initialize, leave_others
        from jaxvision.train.loop import train
        from jaxvision.train.setup import make_run
        from jaxvision.train.stop import Stopped
        from jaxvision.train.workdir import has_checkpoint

    if options.compilation_cache:
        cache_compilation(options.compilation_cache)

    try:
        with nothing_shown_after():
            with waiting("Starting the devices"):
                initialize(_DISTRIBUTED.value)
                jax.devices()
                agree_on_start(options, _MODE.value)
            with waiting("Opening the data and describing the model"):
                run = make_run(options, workdir=workdir, training=_MODE.value != "eval")
            with waiting("Comparing the processes"):
                agree_on_data(run)
            if _MODE.value != "train":
                agree_on_run(holds_run=has_checkpoint(workdir))
            if _MODE.value == "eval":
                evaluate_fully(run, workdir)
            elif _MODE.value == "preflight":
                preflight(run, workdir, memory_gib=_MEMORY.value, target=_FOR.value)
            elif _MODE.value == "find_lr":
                find_lr(run, workdir)
            else:
                state = train(run, workdir)
                write_report(run, state, workdir)
    except InputError as error:
        fail(str(error))
        if not tell_others(error):
            leave_others(2)
        return 2
    except Stopped as stop:
        sys.stderr.write(f"{stop}\n")
        return stop.exit_code
    except RunError as error:
        fail(str(error))
        leave_others()
        return 1
    except Exception as error:
        if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            leave_others()
            raise
        fail(str(error), "Make room there, and the same command resumes.")
        return 1
    return 0
