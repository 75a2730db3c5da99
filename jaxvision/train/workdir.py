"""The folder of a run: what it was started with, and whether it may go on."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import jax

from jaxvision.data.captions.vocabulary import Vocabulary, check_vocabulary
from jaxvision.errors import InputError
from jaxvision.interop.run_folder import CLASSES_FILE, VOCABULARY_FILE

# An ml_collections.ConfigDict. Its own type makes every option a union of all it could be.
Config = Any

# What may differ when a run is resumed: where or how long it goes on, not what it is.
_FREE = (
    "total_steps",
    "total_epochs",
    "eval_batch_size",
    "max_skipped_steps",
    "mesh",
    "sharding_rules",
    "checkpoint",
    "eval",
    "early_stopping",
    "find_lr",
    "caption.num_beams",
    "caption.length_penalty",
    "caption.repetition_penalty",
    "caption.no_repeat_ngram_size",
    "log",
    "compilation_cache",
    "data.path",
    "distill.teacher_weights",
    "data.images",
    "data.num_workers",
    "data.num_threads",
    "data.prefetch_examples",
    "model.kwargs.scan",
    "model.kwargs.remat",
)


def _leaves(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Returns {dotted name: value} of a nested dict."""
    leaves = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        leaves |= _leaves(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return leaves


def _differences(stored: dict, current: dict) -> list[str]:
    """Returns a phrase for every option that makes the two configs different runs."""
    stored, current = _leaves(stored), _leaves(current)
    return [
        f"config.{name} is {current.get(name)!r} here and {stored.get(name)!r} there"
        for name in sorted(stored | current)
        if stored.get(name) != current.get(name)
        and not any(name == free or name.startswith(f"{free}.") for free in _FREE)
    ]


def compare_run(workdir: pathlib.Path, config: Config) -> str:
    """Returns how a config differs from the one that a folder's run was started with; "": not."""
    path = workdir / "config.json"
    try:
        stored = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({error}); restore it, or give another --workdir."
        ) from error
    differences = _differences(stored, json.loads(config.to_json_best_effort())) if stored else []
    return "; ".join(differences[:5])


def has_checkpoint(workdir: str | pathlib.Path) -> bool:
    """Returns whether a folder holds a run to go on with."""
    folder = pathlib.Path(workdir).expanduser() / "checkpoints"
    return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


def cannot_write(workdir: pathlib.Path, error: OSError) -> InputError:
    """Returns the error of a folder that refuses a file."""
    return InputError(
        f"The workdir {workdir} cannot be written ({error.strerror or error}); "
        "give a --workdir on a writable disk with free space."
    )


def open_workdir(
    workdir: str | pathlib.Path,
    config: Config,
    class_names: Sequence[str] = (),
    vocabulary: Vocabulary | None = None,
) -> pathlib.Path:
    """Makes the folder of a run with its config, its versions, and its classes or vocabulary.

    Where the folder already holds checkpoints, the config must describe the same run.

    Args:
      workdir: of the run.
      config: see configs/common.py.
      class_names: by label, for those who use the run's weights.
      vocabulary: of captions, for them too.

    Raises:
      InputError: if the folder cannot be written, or holds another run; names the differences.
    """
    workdir = pathlib.Path(workdir).expanduser().absolute()
    missing = []
    try:
        folders = (workdir / "checkpoints", workdir, *workdir.parents)
        missing = [folder for folder in folders if not folder.exists()]
        (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
        if has_checkpoint(workdir):
            differences = compare_run(workdir, config)
            if differences:
                raise InputError(
                    f"{workdir} holds another run: {differences}. "
                    "Give another --workdir, or the options of that run."
                )
            if vocabulary is not None:
                same_vocabulary(workdir, vocabulary)
        if jax.process_index() == 0:
            write_json(workdir / "config.json", json.loads(config.to_json_best_effort()))
            write_json(workdir / "versions.json", versions())
            names = (" ".join(name.splitlines()) for name in class_names)  # one line each
            if vocabulary is not None:
                vocabulary.save(str(workdir / VOCABULARY_FILE))
            else:
                write_text(workdir / CLASSES_FILE, "".join(f"{name}\n" for name in names))
    except OSError as error:
        for folder in missing:  # leaves nothing behind
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise cannot_write(workdir, error) from error
    return workdir


def same_vocabulary(folder: pathlib.Path, vocabulary: Vocabulary) -> None:
    """Raises InputError if the run in a folder was trained with another vocabulary."""
    path = folder / VOCABULARY_FILE
    if path.exists():
        kept = Vocabulary.load(str(path))
        where = f"the run in {folder}"
        check_vocabulary(vocabulary, size=len(kept), fingerprint=kept.fingerprint, where=where)


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


def versions() -> dict[str, str]:
    """Returns the versions and devices that a result depends on."""
    names = "jax jaxlib flax optax orbax-checkpoint grain numpy opencv-python-headless pillow"
    return {name: importlib.metadata.version(name) for name in names.split()} | {
        "python": platform.python_version(),
        "jaxvision": importlib.metadata.version("jaxvision-nnx"),
        "devices": ", ".join(sorted({d.device_kind for d in jax.devices()})),
        "device_count": str(jax.device_count()),
        "process_count": str(jax.process_count()),
    }
