"""The files of a run: written whole or not at all, read back with clear errors."""

import json
import os
import pathlib
from typing import Any

from jaxvision.errors import InputError

METRICS_FILE = "metrics.jsonl"


def output_path(path: str | os.PathLike) -> pathlib.Path:
    """Returns the absolute path of something that is to be written, `~` replaced.

    Raises:
      InputError: if it is a URL, which would become a folder of that name on the local disk.
    """
    scheme, separator, _ = os.fspath(path).partition("://")
    if separator and scheme.isalnum():
        raise InputError(
            f"{os.fspath(path)} is a URL, but files are written to the folders of this machine "
            "only: give a path, such as that of a mounted bucket."
        )
    return pathlib.Path(path).expanduser().absolute()


def write_json(path: pathlib.Path, content: dict) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_text(path: pathlib.Path, content: str) -> None:
    """Writes a text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def cannot_write(workdir: pathlib.Path, error: OSError) -> InputError:
    """Returns the error of a folder that refuses a file."""
    return InputError(
        f"The workdir {workdir} cannot be written ({error.strerror or error}); "
        "give a --workdir on a writable disk with free space."
    )


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics.jsonl, in the order they were written.

    A last line that was cut off when the run was killed is left out. A value that was not finite is
    None.

    Raises:
      InputError: if the file is missing, or another line is no JSON object with a step.
    """
    path = pathlib.Path(workdir) / METRICS_FILE
    if not path.is_file():
        raise InputError(f"There is no {path}; give the --workdir of a run that has started.")
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record["step"]
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                break
            raise InputError(
                f"Line {number} of {path} is no JSON object with a step: {line[:80]!r}; delete it."
            ) from None
        records.append(record)
    return records
