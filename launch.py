"""Trains, evaluates or previews: `python launch.py --config=configs/vit_b16.py --workdir=runs/a`.

The same command again resumes the run. Exit codes: 0 done, 2 wrong configuration or missing data,
143/130 stopped by a signal after saving, 1 anything else. A config file is Python and is executed.
"""

import errno
import logging
import os
import re
import sys
import traceback
import warnings

from absl import flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, also with an argument: configs/vit_b16.py:imagenet2012."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "auto", ["auto", "on", "off"], "Join the other processes of a cluster."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "preflight"], "What to do.")
_MEMORY = flags.DEFINE_float(
    "memory_gib", None, "Of one device, for preflight; what it has by default.", lower_bound=0
)


def _use_huge_pages() -> None:
    """Starts Python anew with transparent huge pages for malloc, which glibc reads only then.

    XLA on a CPU takes a fresh arena in every step, and small pages cost it a page fault each.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _parse(argv: list[str]) -> None:
    """Reads flags and config; a mistake is one line and exit code 2."""
    see = f"See `python {argv[0]} --help` and configs/common.py."
    try:
        rest = flags.FLAGS(argv)[1:]
        if rest:
            raise flags.Error(f"{rest[0]!r} is no option: --config.batch_size=64 would be one.")
        if _CONFIG.value is None or not _WORKDIR.value:
            raise flags.Error(
                "--config=FILE and --workdir=FOLDER must be given, and get_config() in the file "
                "must return the config."
            )
        _CONFIG.value.seed  # noqa: B018 - a file that could not be loaded says so only when it is read
    except (flags.Error, OSError, SyntaxError, TypeError, ValueError) as error:
        sys.exit(_fail(error, see))
    except Exception as error:  # a config file is Python and may raise anything
        cause = error.args[0] if error.args and isinstance(error.args[0], KeyError) else error
        option = re.match(r"""(?:Key )?['"](\w+)['"]""", str(cause.args[0] if cause.args else ""))
        if isinstance(cause, KeyError) and option:  # of ml_collections
            hint = re.search("Did you mean .*", str(cause.args[0]))
            text = f"There is no option {option[1]!r}. {hint[0] if hint else ''}"
        else:
            place = traceback.extract_tb(error.__traceback__)[-1]
            library = "ml_collections" in place.filename
            where = "" if library else f" ({place.filename}, line {place.lineno})"
            text = f"The config file fails with {type(error).__name__}: {error}{where}."
        sys.exit(_fail(flags.Error(text.strip()), see))


def _fail(error: BaseException, remedy: str = "") -> int:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = [line for line in lines if "No such file or directory" in line]
    if any(line.startswith("Traceback") for line in lines):  # an error inside the config file
        lines = [lines[-1].split("Error: ", 1)[-1]]
    elif missing:
        lines = missing[:1]
    text = " ".join(lines)
    stop = "" if text.endswith((".", "?")) else "."
    print(f"error: {text}{stop} {remedy}".rstrip(), file=sys.stderr)
    return 2


def _quiet_libraries() -> None:
    """Leaves to our own log what matters; a failed save alone is hundreds of lines of orbax."""
    for library in ("jax", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for library in ("absl", "asyncio"):  # of orbax and tfds
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    report = sys.unraisablehook

    def report_others(unraisable: "sys.UnraisableHookArgs") -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):  # reads after one has failed
            report(unraisable)

    sys.unraisablehook = report_others


def main(argv: list[str]) -> int:
    """Runs the chosen mode; returns the exit code."""
    _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    _quiet_libraries()

    import jax

    config, workdir = _CONFIG.value, str(_WORKDIR.value)
    if config.compilation_cache:
        cache = os.path.expanduser(config.compilation_cache)
        jax.config.update("jax_compilation_cache_dir", cache)

    from jaxvision.analysis.preflight import preflight
    from jaxvision.analysis.report import write_report
    from jaxvision.errors import InputError, RunError
    from jaxvision.train.distributed import initialize, leave_others
    from jaxvision.train.loop import evaluate_run, train
    from jaxvision.train.stop import Stopped

    try:
        initialize(_DISTRIBUTED.value)
        if _MODE.value == "eval":
            evaluate_run(config, workdir)
        elif _MODE.value == "preflight":
            preflight(config, workdir, memory_gib=_MEMORY.value)
        else:
            state = train(config, workdir)
            write_report(config, state, workdir)
    except InputError as error:
        return _fail(error)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:  # the second one, or one before there was anything to save
        print("Interrupted; the same command goes on from the newest checkpoint.", file=sys.stderr)
        return 130
    except RunError as error:
        _fail(error)
        return 1
    except Exception as error:
        if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            leave_others()
            raise
        _fail(error, "Make room there, and the same command goes on.")
        return 1
    return 0


if __name__ == "__main__":
    _use_huge_pages()
    sys.exit(main(sys.argv))
