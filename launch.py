"""Trains or evaluates a config: `python launch.py --config=configs/vit_b16.py --workdir=runs/a`.

The same command again resumes the run. Exit codes: 0 done, 2 wrong configuration or missing data,
143/130 stopped by a signal after saving, 1 anything else. A config file is Python and is executed.
"""

import logging
import os
import sys

from absl import flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, also with an argument: configs/vit_b16.py:imagenet2012."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "auto", ["auto", "on", "off"], "Join the other processes of a cluster."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "What to do.")


def _use_huge_pages() -> None:
    """Starts Python anew with transparent huge pages for malloc, which glibc reads only then.

    XLA on a CPU takes a fresh arena in every step, and small pages cost it a page fault each.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _parse(argv: list[str]) -> None:
    """Reads flags and config; a mistake is one line and exit code 2."""
    try:
        flags.FLAGS(argv)
        if _CONFIG.value is None or _WORKDIR.value is None:
            raise flags.Error("--config=FILE and --workdir=FOLDER must be given.")
        _CONFIG.value.seed  # noqa: B018 - a file that could not be loaded says so only when it is read
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        sys.exit(_fail(error, f"See `python {argv[0]} --help` and configs/common.py."))


def _fail(error: BaseException, remedy: str = "") -> int:
    text = str(error.args[0]) if isinstance(error, KeyError) else str(error)  # KeyError quotes
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    missing = [line for line in lines if "No such file or directory" in line]
    if any(line.startswith("Traceback") for line in lines):  # an error inside the config file
        lines = [lines[-1].split("Error: ", 1)[-1]]
    elif missing:
        lines = missing[:1]
    print(f"error: {' '.join(lines)} {remedy}".rstrip(), file=sys.stderr)
    return 2


def main(argv: list[str]) -> int:
    """Runs the chosen mode; returns the exit code."""
    _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for library in ("jax", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax and tfds; what matters is said here

    import jax

    config, workdir = _CONFIG.value, str(_WORKDIR.value)
    if config.compilation_cache:
        cache = os.path.expanduser(config.compilation_cache)
        jax.config.update("jax_compilation_cache_dir", cache)

    from jaxvision.analysis.report import write_report
    from jaxvision.errors import InputError
    from jaxvision.train.distributed import initialize
    from jaxvision.train.loop import evaluate_run, train
    from jaxvision.train.stop import Stopped

    try:
        initialize(_DISTRIBUTED.value)
        if _MODE.value == "eval":
            evaluate_run(config, workdir)
        else:
            state = train(config, workdir)
            write_report(config, state, workdir)
    except InputError as error:
        return _fail(error)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    return 0


if __name__ == "__main__":
    _use_huge_pages()
    sys.exit(main(sys.argv))
