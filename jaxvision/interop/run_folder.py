"""What a run leaves: its weights, its config, the names of its classes."""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxvision.data.classes import read_class_names
from jaxvision.errors import InputError, reason, shorten
from jaxvision.files import check_step, checkpoint_steps, read_json
from jaxvision.interop.rules import Weights, flatten
from jaxvision.interop.weight_folder import usual_file
from jaxvision.layers.adapter import merge_adapters
from jaxvision.models.image_model import TRAINING_ONLY
from jaxvision.models.registry import is_known
from jaxvision.options.adapter import AdapterOptions
from jaxvision.options.data import check_colors
from jaxvision.options.options import Options, as_json, check_types
from jaxvision.options.size import MAX_SIDE, Size, is_size
from jaxvision.outside import is_address

logger = logging.getLogger(__name__)

CLASSES_FILE = "classes.txt"  # one name a line, in the order of the labels
VOCABULARY_FILE = "vocabulary.json"  # of a captioner
THRESHOLDS_FILE = "thresholds.json"  # of several labels: {class: probability to say it from}


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run on disk.

    Attributes:
      folder: Folder of the run.
      steps: Checkpoints to read from, in the order of preference.
      config: Content of `config.json`; see configs/common.py.
      class_names: Names of the classes by label; empty if the run has not kept them.
    """

    folder: pathlib.Path
    steps: tuple[int, ...]
    config: dict[str, Any]
    class_names: tuple[str, ...]


def open_run(path: str | pathlib.Path) -> RunFolder:
    """Returns the run in a folder.

    Args:
      path: Folder of a run, or of one of its checkpoints, `<run>/checkpoints/<step>`.

    Raises:
      InputError: if it is neither, or its files are damaged.
    """
    path = pathlib.Path(path).expanduser().absolute()
    one_step = path.parent.name == "checkpoints" and path.name.isdigit()
    folder = path.parent.parent if one_step else path
    checkpoints = folder / "checkpoints"
    if not (folder / "config.json").is_file() or not checkpoints.is_dir():
        raise InputError(
            f"{path} is neither a file of weights nor the folder of a run with config.json and "
            "checkpoints/."
        )
    steps = (int(path.name),) if one_step else tuple(checkpoint_steps(checkpoints)[::-1])
    config = _read_config(folder / "config.json")
    return RunFolder(folder, steps, config, read_class_names(folder / CLASSES_FILE))


def is_run(path: str | pathlib.Path) -> bool:
    """Returns whether a path is to be opened as a run: a folder, but not one of other weights."""
    text = os.path.expanduser(path)
    return os.path.isdir(text) and usual_file(pathlib.Path(text)) is None


def read_thresholds(folder: pathlib.Path, class_names: tuple[str, ...]) -> tuple[float, ...]:
    """Returns the probability of each class from which on it is said; nothing if there is no file.

    Args:
      folder: Folder of a run with several labels an image.
      class_names: Names of the classes, by output.

    Raises:
      InputError: if the file is damaged, or not of these classes.
    """
    path = folder / THRESHOLDS_FILE
    if not path.is_file():
        return ()
    try:
        kept = read_json(path)
        thresholds = tuple(kept[name] for name in class_names)
        if not all(type(x) in (int, float) and 0 <= x <= 1 for x in thresholds):
            raise ValueError("a probability in 0..1 is wanted for each class")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is damaged ({shorten(reason(error))}): restore it, or remove it for 0.5."
        ) from error
    return tuple(map(float, thresholds))


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    """Returns what config.json holds; what an older version has not written has its default.

    It may be from anywhere, so that nothing in it is taken for granted.
    """
    try:
        stored = read_json(path)
        check_types(stored)
        config = _merged(as_json(Options()), stored)
        size = config["data"]["image_size"]
        if not is_size(tuple(size) if isinstance(size, list) else size):
            raise ValueError(f"data.image_size is {shorten(size)}, pixels up to {MAX_SIDE} wanted")
        check_colors(config["data"]["mean"], config["data"]["std"])
        if "model" not in stored:
            raise ValueError("it names no model")
    except ValueError as error:
        problem = str(error).rstrip(".")
        raise InputError(f"{path} is damaged ({problem}): restore it.") from error
    return config


def _merged(defaults: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    groups = {k: _merged(v, stored.get(k, {})) for k, v in defaults.items() if isinstance(v, dict)}
    return defaults | stored | groups


def check_stored_models(stored: Mapping[str, Any], *, where: str, named: bool = False) -> None:
    """Checks that the models in the config of a run are known without importing anything.

    A folder from elsewhere must not decide which code runs here.

    Args:
      stored: Content of the run's config.json.
      where: Name of the run, for the message.
      named: Whether the user has named the model of the run, which is not looked at then.

    Raises:
      InputError: if one of them is the address of a model that is not imported.
    """
    names = {
        "": None if named else stored["model"]["name"],
        "the encoder ": stored["model"]["kwargs"].get("encoder"),
        "the teacher ": stored.get("distill", {}).get("teacher"),
    }
    for part, name in names.items():
        if isinstance(name, str) and is_address(name) and not is_known(name):
            how = "" if part else f"give --model={name}, or "
            raise InputError(
                f"{where} is a run of {part}{name}, whose code is not imported because a folder "
                f"says so: {how}import it in Python by jaxvision.get_spec({name!r})."
            )


def run_image_size(run: RunFolder) -> Size:
    """Returns the size of the images that the model of a run is built for, in pixels."""
    kwargs, data = run.config["model"]["kwargs"], run.config["data"]
    inner = kwargs.get("encoder_options")  # of a captioner
    given = inner.get("image_size") if isinstance(inner, dict) else None
    size = given or kwargs.get("image_size") or data["image_size"]
    size = tuple(size) if isinstance(size, list) else size
    if not is_size(size):
        raise InputError(
            f"{run.folder}/config.json is damaged (image_size is {shorten(size)}, pixels up to "
            f"{MAX_SIDE} wanted): restore it."
        )
    return size


def read_run(
    path: str | pathlib.Path, *, ema: bool = False, whole: bool = False
) -> tuple[Weights, str]:
    """Returns the weights of a run by our paths, and which they are.

    Of the newest checkpoint that can be read; the averaged weights if the run keeps them.

    Args:
      path: Folder of a run or of one of its checkpoints, see `open_run`.
      ema: Whether a run without averaged weights is refused.
      whole: Whether what a model has only in training is wanted, too, such as adapters; False:
        these are merged into the kernels beside them.

    Raises:
      InputError: if there is no run, or no checkpoint of it can be read.
    """
    from orbax.checkpoint import v1 as ocp  # seconds, which a file of weights does not need

    run = open_run(path)
    scale = AdapterOptions(**run.config["adapter"]).scale
    reasons = []
    for step in run.steps:
        try:
            folder = run.folder / "checkpoints" / str(step)
            return _read_step(ocp, folder, ema=ema, whole=whole, scale=scale)
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001 - orbax raises many kinds for a damaged file
            reasons.append(f"{step}: {type(error).__name__}")
            logger.warning("The checkpoint of step %d cannot be read.", step)
    raise InputError(
        f"No readable checkpoint in {run.folder}/checkpoints ({', '.join(reasons) or 'none'}): "
        "train first, or give another folder."
    )


def _read_step(
    ocp: Any, folder: pathlib.Path, *, ema: bool, whole: bool, scale: float
) -> tuple[Weights, str]:
    saved: Any = ocp.checkpointables_metadata(folder).metadata["state"]
    averaged = saved["ema_params"] is not None
    if ema and not averaged:
        raise InputError(f"{folder} has no averaged weights: leave ema=True out.")
    names = ("ema_params", "ema_batch_stats") if averaged else ("params", "batch_stats")
    # The devices of the run may be others than those of this machine.
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {
        name: jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), saved[name]
        )
        for name in names
    }
    context = ocp.Context()
    context.pytree.loading.partial_load = True  # leave the optimizer on the disk
    with context:
        loaded: Any = ocp.load_checkpointables(folder, {"state": wanted, "data": None})
    check_step(folder, loaded["data"])
    state = loaded["state"]
    trees = [state[name] if whole else merge_adapters(state[name], scale) for name in names]
    arrays = {path: x for tree in trees for path, x in flatten(tree).items()}
    weights = {
        path: np.asarray(x)
        for path, x in arrays.items()
        if whole or path.split("/")[0] not in TRAINING_ONLY
    }
    kind = "averaged weights" if averaged else "weights"
    return weights, f"{kind} of step {folder.name}"
