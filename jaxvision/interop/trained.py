"""A model with its weights, and all that goes with them: preprocessing, names of the classes."""

import dataclasses
import math
import pathlib
from typing import Any

from flax import nnx

from jaxvision.data.augment.transforms import eval_transform
from jaxvision.data.types import Transform
from jaxvision.errors import InputError, shorten
from jaxvision.interop.fill import assign_all
from jaxvision.interop.identify import identify, naming_the_model
from jaxvision.interop.load import count_classes, read_file_or_run
from jaxvision.interop.run_folder import RunFolder, check_stored_models, is_run, open_run
from jaxvision.models.registry import create_model, get_spec, is_known, spec_with
from jaxvision.models.spec import ModelSpec


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model that can be used.

    Attributes:
      model: Model with its weights.
      spec: Row of the model; mean and deviation of its pixels are in there.
      transform: Resize and crop of an image, to uint8.
      class_names: Names of the classes by label; empty if nobody knows them.
      report: What was loaded, in words.
    """

    model: Any
    spec: ModelSpec
    transform: Transform
    class_names: tuple[str, ...]
    report: str


def open_trained(
    weights: str, name: str | None = None, *, part: str | None = None, **overrides: Any
) -> Trained:
    """Returns the model of a file of weights or of a run.

    The head gets as many outputs as the weights have. A run is evaluated with the preprocessing of
    its config, a file with that of the published weights.

    Args:
      weights: File, or the folder of a run or of one of its checkpoints; see `load_weights`.
      name: Name of the model; None: of a run, its own.
      part: Name of the place in the file whose weights are meant, see `load_weights`.
      overrides: Fields of the model's config that it shall have here; those it has not, it ignores.

    Raises:
      InputError: if the weights cannot be read or belong to another model, or do not fill it.
    """
    spec = get_spec(name) if name else None
    run = open_run(weights) if is_run(weights) else None
    if run is None and spec is None:
        if not str(weights).startswith("hub:") and not pathlib.Path(weights).expanduser().exists():
            raise InputError(f"There is no run and no file of weights {weights}.")
        found = identify(read_file_or_run(weights, part=part).weights)
        if found is None:
            raise InputError(f"{weights} does not say which model it is of: give --model=NAME.")
        raise InputError(f"{weights} looks like {found}: give --model={found.names[0]}.")
    if run is not None:
        own = run.config["model"]["name"]
        if spec is not None and is_known(own) and get_spec(own) is not spec:
            raise InputError(f"{weights} is a run of {own}, not of {name}: leave --model out.")
        check_stored_models(run.config, where=weights, named=spec is not None)
        spec = spec or get_spec(own)
    assert spec is not None
    options = _run_options(run, spec) if run else {}
    spec = spec_with(spec.name, options)
    options |= {field: x for field, x in overrides.items() if hasattr(spec.config, field)}
    model = _abstract(spec, options)
    file = read_file_or_run(weights, model, part=part)
    with naming_the_model(weights, file.weights, model):
        classes = count_classes(model, file.weights, source=file.source)
    if classes is not None:
        options[spec.outputs_option] = classes
    model = _abstract(spec, options)  # random initial values would be thrown away
    report = assign_all(model, file, path=weights, name=spec.name)
    class_names = run.class_names if run else ()
    return Trained(model, spec, evaluation_transform(spec, run), class_names, str(report))


def _abstract(spec: ModelSpec, options: dict[str, Any]) -> nnx.Module:
    try:
        return nnx.eval_shape(lambda: create_model(spec.name, rngs=nnx.Rngs(0), **options))
    except InputError:
        raise
    except Exception as error:  # values of a file can be wrong in any way
        raise InputError(f"config.json of the run: {shorten(error)}") from error


def _run_options(run: RunFolder, spec: ModelSpec) -> dict[str, Any]:
    """Returns the options that the run built its model with, less the number of outputs."""
    model, data = run.config["model"], run.config["data"]
    options = {name: _hashable(value) for name, value in model["kwargs"].items()}
    fields = {field.name for field in dataclasses.fields(spec.config)}
    if "image_size" in fields:
        options.setdefault("image_size", _hashable(data["image_size"]))
    if run.config["task"] == "captioning":
        options.setdefault("max_length", run.config["caption"]["max_length"])
    return options | {"dtype": model["dtype"]}


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((name, _hashable(inner)) for name, inner in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def evaluation_transform(spec: ModelSpec, run: RunFolder | None = None) -> Transform:
    """Returns the resize and crop of evaluation images.

    Args:
      spec: Row of the model.
      run: Run whose config tells them; None: as the published weights want them.
    """
    if run is not None:
        data = run.config["data"]
        return eval_transform(
            _hashable(data["image_size"]),
            eval_resize=data["eval_resize"],
            interpolation=data["interpolation"],
        )
    preprocess = spec.preprocess
    return eval_transform(
        spec.image_size,
        eval_resize=math.floor(spec.image_size / preprocess.crop_fraction),
        interpolation=preprocess.interpolation,
    )
