"""A model with its weights, and all that goes with them: preprocessing, names of the classes."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from flax import nnx

from jaxvision.data.augment.transforms import eval_transform
from jaxvision.data.captions.vocabulary_file import load_vocabulary
from jaxvision.data.types import Transform
from jaxvision.errors import InputError, shorten
from jaxvision.interop import hub, pretrained
from jaxvision.interop.assign import count_classes
from jaxvision.interop.describe import check_padding, completed, describe_weights
from jaxvision.interop.fill import assign_all
from jaxvision.interop.hub_config import Description
from jaxvision.interop.identify import identify, naming_the_model
from jaxvision.interop.read import read_file_or_run
from jaxvision.interop.report import LoadReport
from jaxvision.interop.rules import Weights
from jaxvision.interop.run_folder import (
    VOCABULARY_FILE,
    RunFolder,
    check_stored_models,
    is_run,
    open_run,
    read_thresholds,
)
from jaxvision.models.registry import create_model, get_spec, is_known, spec_with
from jaxvision.models.spec import Model, ModelSpec
from jaxvision.options.moco import TASK as MOMENTUM_CONTRAST
from jaxvision.options.size import Size, sides

CAPTIONED = ("captioning", "image_text")  # tasks whose images have captions
# Arrays that tell the width of the features a model was trained on, and by which axis.
_FEATURES = (("visual_proj/kernel", 0), ("image_head/kernel", 0), ("decoder/embed/embedding", 1))


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model that can be used.

    Attributes:
      model: Model with its weights.
      spec: Row of the model, with the preprocessing of the weights.
      transform: Resize and crop of an image, to uint8.
      class_names: Names of the classes by label; empty if nobody knows them.
      report: What was loaded, in words.
      thresholds: Probability of each class from which on it is said, of a run with several labels
        an image; None: the most probable class is.
    """

    model: Any
    spec: ModelSpec
    transform: Transform
    class_names: tuple[str, ...]
    report: str
    thresholds: tuple[float, ...] | None = None


def open_trained(
    weights: str,
    name: str | None = None,
    *,
    part: str | None = None,
    weights_size: Size | None = None,
    **overrides: Any,
) -> Trained:
    """Returns the model of a file of weights or of a run.

    The head gets as many outputs as the weights have. Images are prepared as the weights want them,
    see `describe_weights`.

    Args:
      weights: Tag, file, or the folder of a run or of one of its checkpoints; see `load_weights`.
      name: Name of the model; None: the one that the weights tell.
      part: Name of the place in the file whose weights are meant, see `load_weights`.
      weights_size: Size of the images that the weights belong to, in pixels; None: as they say.
      overrides: Fields of the model's config that it shall have here; those it has not, it ignores.

    Raises:
      InputError: if the weights cannot be read or belong to another model, or do not fill it.
    """
    pretrained.check_address(weights)
    spec = get_spec(name) if name else None
    run, known, file = None, None, None
    if is_run(weights):
        if weights_size is not None:
            raise InputError(
                f"{weights} is a run, which knows the size of its images: leave --weights-size out."
            )
        run = open_run(weights)
        spec, options = _model_of_run(run, weights, name)
        size = _hashable(run.config["data"]["image_size"])
        file = read_file_or_run(weights, part=part)
        if spec.task in CAPTIONED:
            options |= _options_of_features(file.weights)
        spec = spec_with(spec.name, options)
    else:
        _check_there(weights)
        known = describe_weights(weights)
        spec = spec or _told_model(weights, part, known)
        options, size = _told_options(spec, known)
    options |= {field: x for field, x in overrides.items() if hasattr(spec.config, field)}
    model = _abstract(spec, options)
    if isinstance(model, Model):
        check_padding(known, model)
    if file is None:
        file = read_file_or_run(weights, model, part=part)
        told = known.image_size if known is not None else None
        file = dataclasses.replace(file, image_size=weights_size or file.image_size or told)
    with naming_the_model(weights, file.weights, model):
        classes = count_classes(model, file.weights, source=file.source)
    if run is not None and run.config["task"] == MOMENTUM_CONTRAST:
        classes = 0  # it was trained without a head
    if classes is not None and spec.outputs_option is not None:
        options[spec.outputs_option] = classes
    model = _abstract(spec, options)  # random initial values would be thrown away
    report = assign_all(model, file, path=weights, name=spec.name)
    if run is not None:
        names, transform = run.class_names, run_transform(run)
        spec = pixels_of(run.config["data"], spec)
    else:
        known = completed(known, spec, report.source, of=weights)
        names = known.class_names if known is not None else ()
        names = names if len(names) == classes else ()
        if known is not None and known.preprocess is not None:
            spec = dataclasses.replace(spec, preprocess=known.preprocess)
        size = options.get("image_size", size)
        transform = weights_transform(spec, size)
    if isinstance(model, Model):
        model.preprocess, model.wanted_size = spec.preprocess, size
    thresholds = None
    if run is not None and run.config["task"] == "multi_label":
        thresholds = read_thresholds(run.folder, names) or (0.5,) * (classes or len(names))
    return Trained(model, spec, transform, names, _report(report, known), thresholds)


def check_classifier(trained: Trained, weights: str | os.PathLike) -> None:
    """Checks that a model tells classes.

    Args:
      trained: Model that was opened.
      weights: Path of its weights, for the text of the error.

    Raises:
      InputError: if it is for another task, or was trained without a head.
    """
    get_spec(trained.spec.name, task="classification")
    if trained.model.config.num_classes == 0:
        raise InputError(
            f"{weights} was trained without classes and tells none: `jaxvision embed` and "
            "`jaxvision probe` take its features, and config.model.init_from goes on from it."
        )
    row = pretrained.published(weights) or pretrained.with_address(os.fspath(weights))
    if row is not None and row.num_outputs and not row.tells_classes:
        raise InputError(
            f"{weights} was trained on texts and tells no classes: its outputs are vectors to "
            "compare with those of texts. `jaxvision embed` and `jaxvision probe` take its "
            "features, `jaxvision zeroshot` a pair of both encoders."
        )


def _told_model(weights: str, part: str | None, known: Description | None) -> ModelSpec:
    """Returns the row of the model that weights tell.

    Those of transformers have a config.json, but the shapes tell which variant it is.
    """
    if known is not None and known.model is not None:
        return get_spec(known.model)
    found = identify(read_file_or_run(weights, part=part).weights)
    if found is None:
        raise InputError(f"{weights} does not say which model it is of: give --model=NAME.")
    if known is None:
        raise InputError(f"{weights} looks like {found}: give --model={found.names[0]}.")
    specs = [get_spec(name) for name in found.names]
    return next((spec for spec in specs if known.source in spec.peers), specs[0])


def _told_options(spec: ModelSpec, known: Description | None) -> tuple[dict[str, Any], Size]:
    """Returns the options of the model and the size of its images, as its weights tell them."""
    options, size = {}, None
    if known is not None and known.model in (None, spec.name):
        options, size = dict(known.options), known.image_size
    size = options.get("image_size") or size or spec.image_size
    if "image_size" in {field.name for field in dataclasses.fields(spec.config)}:
        options["image_size"] = size
    return options, size


def _check_there(weights: str) -> None:
    there = os.path.exists(os.path.expanduser(weights))
    if not (there or str(weights).startswith(hub.PREFIX) or pretrained.is_tag(weights)):
        near = pretrained.nearest_tags(weights)
        raise InputError(
            f"There is no run and no file of weights {weights}, and no published weights of that"
            f" name{near}"
        )


def _report(report: LoadReport, known: Description | None) -> str:
    if known is None or known.preprocess is None:
        return str(report)
    return f"{report}\nimages prepared for {known.name}"


def _model_of_run(
    run: RunFolder, weights: str, name: str | None
) -> tuple[ModelSpec, dict[str, Any]]:
    """Returns the row of a run's model and the options that it was built with."""
    spec = get_spec(name) if name else None
    own = run.config["model"]["name"]
    if spec is not None and is_known(own) and get_spec(own) is not spec:
        raise InputError(f"{weights} is a run of {own}, not of {name}: leave --model out.")
    check_stored_models(run.config, where=weights, named=spec is not None)
    spec = spec or get_spec(own)
    return spec, _run_options(run, spec)


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
    if run.config["task"] in CAPTIONED:
        options.setdefault("max_length", run.config["caption"]["max_length"])
    if run.config["task"] == "image_text":
        vocabulary = load_vocabulary(str(run.folder / VOCABULARY_FILE))
        options.setdefault("end_token", vocabulary.end)
    return options | {"dtype": model["dtype"]}


def _options_of_features(weights: Weights) -> dict[str, Any]:
    """Returns the options of a model that was trained on features; its config has others."""
    if any(name.startswith("encoder/") for name in weights):
        return {}
    # Without a projection the features are as wide as the words.
    found = [
        weights[name].shape[axis]
        for name, axis in _FEATURES
        if name in weights and weights[name].ndim == 2
    ]
    return {"encoder": None, "feature_width": found[0]} if found else {}


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((name, _hashable(inner)) for name, inner in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def wanted_size(model: Model, spec: ModelSpec) -> Size:
    """Returns the size of the images that a model with its weights wants, in pixels.

    Args:
      model: Model of `create_model`.
      spec: Row of the model.
    """
    return getattr(model.config, "image_size", None) or model.wanted_size or spec.image_size


def run_transform(run: RunFolder) -> Transform:
    """Returns the resize and crop of a run's evaluation images."""
    data = run.config["data"]
    return eval_transform(
        _hashable(data["image_size"]),
        eval_resize=data["eval_resize"],
        interpolation=data["interpolation"],
        crop_mode=data["eval_crop"],
    )


def weights_transform(spec: ModelSpec, image_size: Size) -> Transform:
    """Returns the resize and crop that published weights want.

    Args:
      spec: Row of the model, with the preprocessing of the weights.
      image_size: Size of the result in pixels.
    """
    preprocess = spec.preprocess
    return eval_transform(
        image_size,
        eval_resize=preprocess.resize(min(sides(image_size))),
        interpolation=preprocess.interpolation,
        crop_mode=preprocess.crop_mode,
    )


def pixels_of(data: Mapping[str, Any], spec: ModelSpec) -> ModelSpec:
    """Returns the row of a model with mean and deviation that a run has decided on.

    Args:
      data: Content of `config.data`; of a run of an older version they may be open.
      spec: Row of the model.
    """
    colors = {name: tuple(data[name]) for name in ("mean", "std") if data[name]}
    return dataclasses.replace(spec, preprocess=dataclasses.replace(spec.preprocess, **colors))
