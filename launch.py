"""Trains, evaluates or previews: `python launch.py --config=configs/vit_b16.py --workdir=runs/a`.

The same command again resumes the run. Exit codes: 0 done, 2 wrong configuration or missing data,
143/130 stopped by a signal after saving, 1 anything else. A config file is Python and is executed.
"""

import errno
import inspect
import logging
import pathlib
import re
import shutil
import sys

from absl import flags
from ml_collections import config_flags

from configs import common
from jaxvision.command_line import (
    LogFormatter,
    LogHandler,
    end_interrupted,
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
    "config", None, "Config file, also with an argument: configs/vit_b16.py:imagenet2012."
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


def _help() -> str:
    """Returns modes, flags and all options, with the values of the config file if one is given."""
    width = shutil.get_terminal_size((100, 24)).columns
    own = {}
    for holder in (_CONFIG, _WORKDIR, _MODE, _DISTRIBUTED, _MEMORY, _FOR):
        flag = flags.FLAGS[holder.name]
        kind = "|".join(getattr(flag, "enum_values", None) or [holder.name.upper()])
        default = f" Default: {flag.default}." if flag.default else ""
        own[f"--{flag.name}={kind}"] = f"{flag.help}{default}"
    config = _CONFIG.value
    if config is None:
        config, name = common.get_config(), "configs/common.py"
    else:
        name = config_flags.get_config_filename(flags.FLAGS["config"])
    options = options_help(config, inspect.getsource(common), width=width)
    return f"""{(__doc__ or "").strip()}

Modes, as --mode=...:
{entries(_MODES, width=width)}

Flags:
{entries(own, width=width)}

Options, with the values of {name}:
{options}"""


def _parse(argv: list[str]) -> None:
    """Reads flags and config; a mistake is one line and exit code 2."""
    try:
        argv, model_options = split_model_options(argv)
        sys.argv[1:] = argv[1:]  # where ml_collections looks for options
        rest = flags.FLAGS([word for word in argv if word not in _HELP])[1:]
        if rest:
            raise flags.Error(f"{rest[0]!r} is no option: --config.batch_size=64 would be one.")
        if not _HELP.isdisjoint(argv):
            say(_help())
            sys.exit(0)
        if _CONFIG.value is None or not _WORKDIR.value:
            raise flags.Error(
                "--config=FILE and --workdir=FOLDER must be given, and get_config() in the file "
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
        options = list(option_comments(inspect.getsource(common)))
        text = explain_config_error(error, argv, options)
        fail(text, f"See `python {argv[0]} --help` and configs/common.py.")
        sys.exit(2)


def main(argv: list[str]) -> int:
    """Reads the command line and runs the chosen mode; returns the exit code."""
    _parse(argv)
    handler = LogHandler()
    handler.setFormatter(LogFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    quiet_libraries()
    try:
        workdir = output_path(str(_WORKDIR.value))
        options = read_options(_CONFIG.value)
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
        from jaxvision.train.agreement import (
            agree_on_data,
            agree_on_run,
            agree_on_start,
            tell_others,
        )
        from jaxvision.train.distributed import initialize, leave_others
        from jaxvision.train.loop import train
        from jaxvision.train.report import write_report
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
        print(stop, file=sys.stderr)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv))
