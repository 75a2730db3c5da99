"""The files of a run: written whole or not at all, read back with clear errors."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from jaxvision.errors import InputError

METRICS_FILE = "metrics.jsonl"

STEP = "step"  # in the data of a checkpoint
_CHECKPOINT_PARTS = (  # without any of them there is nothing to restore
    "_CHECKPOINT_METADATA",
    "state/_METADATA",
    "state/manifest.ocdbt",
    "data/_METADATA",
    "data/manifest.ocdbt",
)


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


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object in a JSON file of a run.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is no JSON, nested without end, or no object, or holds NaN.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"it holds {name}")

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__} instead of an object")
    return content


def write_json(path: pathlib.Path, content: dict) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_text(path: pathlib.Path, content: str) -> None:
    """Writes a text file whole or not at all."""
    with written_aside(path) as unfinished:
        unfinished.write_text(content, encoding="utf-8")


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    with written_aside(path) as unfinished:
        unfinished.write_bytes(content)


def save_figure(figure: Any, path: str | os.PathLike) -> pathlib.Path:
    """Writes a picture whole or not at all; returns its path.

    Args:
      figure: Figure of matplotlib.
      path: Path of the picture; its folder must exist.
    """
    with written_aside(path) as unfinished:
        figure.savefig(unfinished)
    return pathlib.Path(path)


@contextlib.contextmanager
def written_aside(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields the path to write a file to, which gets its name when it is complete."""
    path = pathlib.Path(path)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def checkpoint_steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, the oldest first.

    What was left of a checkpoint when its deletion was interrupted is none.
    """
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(path.name) for path in found if path.name.isdigit() and is_checkpoint(path))


def is_checkpoint(folder: pathlib.Path) -> bool:
    """Returns whether all parts of a checkpoint are there; the arrays in them may be damaged."""
    return all((folder / part).exists() for part in _CHECKPOINT_PARTS)


def check_step(folder: pathlib.Path, data: dict[str, Any]) -> None:
    """Checks that the name of a checkpoint's folder is the step that it was saved after.

    Args:
      folder: Folder of the checkpoint.
      data: What it holds beside the state; one of an older version does not say the step.

    Raises:
      InputError: if it was copied or renamed.
    """
    saved = data.get(STEP)
    if saved is not None and str(saved) != folder.name:
        raise InputError(
            f"{folder} holds the checkpoint of step {saved}, copied or renamed: remove it, or give "
            "it that number."
        )


def cannot_write(workdir: pathlib.Path, error: OSError) -> InputError:
    """Returns the error of a folder that refuses a file."""
    return InputError(
        f"The workdir {workdir} cannot be written ({error.strerror or error}); "
        "give a --workdir on a writable disk with free space."
    )


def newest_checkpoint(workdir: str | os.PathLike) -> int | None:
    """Returns the step of the newest checkpoint in the folder of a run; None: there is none."""
    steps = checkpoint_steps(pathlib.Path(workdir).expanduser() / "checkpoints")
    return steps[-1] if steps else None


def what_is_saved(step: int | None) -> str:
    """Returns what is left of a run that ended early.

    Args:
      step: Step of the newest checkpoint; None: there is none.
    """
    if step is None:
        return "there is no checkpoint, and the same command begins anew."
    return f"the same command resumes from the checkpoint of step {step}."


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
    lines = path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record["step"]
        except (ValueError, TypeError, KeyError, RecursionError):
            if number == len(lines):
                break
            raise InputError(
                f"Line {number} of {path} is no JSON object with a step: {line[:80]!r}; delete it."
            ) from None
        records.append(record)
    return records
