"""The folder of a run: what it was started with, and whether it may be resumed."""

import importlib.metadata
import logging
import pathlib
import platform
from typing import Any

import jax

from jaxvision import __version__
from jaxvision.data.fingerprint import fingerprint, fingerprint_difference
from jaxvision.data.source import Records
from jaxvision.errors import InputError
from jaxvision.files import cannot_write, newest_checkpoint, output_path, read_json, write_json
from jaxvision.options.options import Options, as_json, check_types
from jaxvision.tasks.task import Task

DATA_FILE = "data.json"

logger = logging.getLogger(__name__)

# What may differ when a run is resumed: where it continues, not what it is.
_FREE = (
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
    "resume_changed",
    "data.path",
    "distill.teacher_weights",
    "data.images",
    "data.features",
    "data.num_workers",
    "data.num_threads",
    "data.prefetch_examples",
    "model.kwargs.scan",
    "model.kwargs.remat",
)


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Returns {dotted name: value} of a nested dict."""
    leaves = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        leaves |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return leaves


# What decides on the numbers of an evaluation.
_EVALUATED = (
    "model.name",
    "model.num_classes",
    "model.kwargs.",
    "data.image_size ",
    "data.eval_resize",
    "data.eval_crop",
    "data.interpolation",
    "data.mean",
    "data.std",
)


def _differences(stored: dict, current: dict) -> list[str]:
    """Returns a phrase for every option that makes the two runs different ones."""
    current = flat(current)
    return [
        f"config.{name} is {current.get(name)!r} here and {stored.get(name)!r} there"
        for name in sorted(stored | current)
        if stored.get(name) != current.get(name)
        and not any(name == free or name.startswith(f"{free}.") for free in _FREE)
    ]


def compare_run(workdir: pathlib.Path, options: Options) -> str:
    """Returns how options differ from those that a folder's run was started with; "": not.

    What a run of an older version has not written has its default.
    """
    return "; ".join(_changes(workdir, options)[:5])


def check_evaluates_the_run(workdir: str | pathlib.Path, options: Options) -> None:
    """Checks that an evaluation has the model and the image size of the folder's run.

    Args:
      workdir: Folder of the run.
      options: Options of the evaluation.

    Raises:
      InputError: if it has not, unless `resume_changed` says that this is meant.
    """
    found = [
        text
        for text in _changes(output_path(workdir), options)
        if text.removeprefix("config.").startswith(_EVALUATED)
    ]
    if found and not options.resume_changed:
        raise InputError(
            f"{workdir} holds another run: {'; '.join(found[:5])}. Evaluate it with its options, "
            "or with these by --config.resume_changed=True."
        )


def _changes(workdir: pathlib.Path, options: Options) -> list[str]:
    stored = stored_options(workdir)
    if not stored:
        return []
    return _differences(flat(as_json(Options())) | flat(stored), as_json(options))


def stored_options(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the options that a folder's run was started with; nothing if it has not kept them.

    Raises:
      InputError: if config.json is damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        return {}
    try:
        stored = read_json(path)
        check_types(stored)
        if not stored:
            raise ValueError("it holds no options")
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise InputError(
            f"{path} is damaged ({reason}); restore it, or give another --workdir."
        ) from error
    return stored


def describe_data(task: Task) -> dict[str, Any]:
    """Returns what data.json holds: what a run has learned from and is evaluated on."""
    splits = {"train": task.data.train_source, "eval": task.data.eval_source}
    return {
        name: fingerprint(source) if isinstance(source, Records) else {"examples": len(source)}
        for name, source in splits.items()
    }


def _check_data(workdir: pathlib.Path, found: dict[str, Any], *, changed: bool) -> None:
    """Checks that a run goes on with the data that it began with, or says that it does not."""
    kept = read_kept_data(workdir)
    names = {"train": "training", "eval": "evaluation"}
    differences = [
        f"the {name} split {difference}"
        for split, name in names.items()
        if (difference := fingerprint_difference(found[split], kept.get(split, {})))
    ]
    if differences and not changed:
        raise InputError(
            f"The data of the run in {workdir} have changed since it was stopped: "
            f"{'; '.join(differences)}. Restore them, give another --workdir, or go on with these "
            "by --config.resume_changed=True."
        )
    if differences:
        logger.warning("The run goes on with data that have changed: %s.", "; ".join(differences))


def read_kept_data(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns what data.json of a run holds; nothing if an older version has not written it.

    Raises:
      InputError: if it is damaged.
    """
    path = workdir / DATA_FILE
    try:
        kept = read_json(path) if path.exists() else {}
        return {split: dict(kept[split]) for split in kept}
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); restore or remove it.") from error


def has_checkpoint(workdir: str | pathlib.Path) -> bool:
    """Returns whether a folder holds a run to resume."""
    return newest_checkpoint(workdir) is not None


def open_workdir(
    workdir: str | pathlib.Path, options: Options, task: Task | None = None
) -> pathlib.Path:
    """Makes the folder of a run with its options, its versions, and what its task keeps.

    Where the folder already holds checkpoints, the options must describe the same run.

    Args:
      workdir: Folder of the run.
      options: Options of the run.
      task: Task of the run; None: nothing of it is kept.

    Raises:
      InputError: if the folder cannot be written, or holds another run; names the differences.
    """
    workdir = output_path(workdir)
    try:
        (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
        resumes = has_checkpoint(workdir)
        if resumes:
            differences = compare_run(workdir, options)
            if differences and not options.resume_changed:
                raise InputError(
                    f"{workdir} holds another run: {differences}. Give another --workdir, or the "
                    "options of that run; --config.resume_changed=True goes on with these."
                )
            if differences:
                logger.warning("The run goes on although it was another: %s.", differences)
        data = describe_data(task) if task is not None else {}
        if task is not None:
            if resumes:
                _check_data(workdir, data, changed=options.resume_changed)
            task.keep(workdir, resumes=resumes)
        if jax.process_index() == 0:
            write_json(workdir / "config.json", as_json(options))
            write_json(workdir / "versions.json", versions())
            if task is not None:
                write_json(workdir / DATA_FILE, data)
    except OSError as error:
        raise cannot_write(workdir, error) from error
    return workdir


def num_train_examples(workdir: pathlib.Path | None) -> int:
    """Returns how many training examples a run began with; 0 if nobody knows."""
    return read_kept_data(workdir).get("train", {}).get("examples", 0) if workdir else 0


def versions() -> dict[str, str]:
    """Returns the versions and devices that a result depends on."""
    names = "jax jaxlib flax optax orbax-checkpoint grain numpy opencv-python-headless pillow"
    return {name: importlib.metadata.version(name) for name in names.split()} | {
        "python": platform.python_version(),
        "jaxvision": __version__,
        "devices": ", ".join(sorted({d.device_kind for d in jax.devices()})),
        "device_count": str(jax.device_count()),
        "process_count": str(jax.process_count()),
    }
