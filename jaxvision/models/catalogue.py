"""The list of the image models, and the door to all models."""

import dataclasses
import difflib
import fnmatch
from collections.abc import Mapping
from typing import Any

from flax import nnx

from jaxvision.errors import InputError
from jaxvision.models import (
    airbench,
    clip_vit,
    convnext,
    deit,
    dinov2,
    efficientnet,
    hybrid_vit,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    pvt,
    pvt_v2,
    resnet,
    swin,
    swin_v2,
    vit,
)
from jaxvision.models.initial_values import build_model
from jaxvision.models.spec import Model, ModelSpec, check_numbers
from jaxvision.outside import import_outside, imported_outside, is_address

_WEIGHTS = ("hub:", "pip:", "http://", "https://")

_SPECS: dict[str, ModelSpec] = {}
_NAMES: dict[str, str] = {}  # every name, alias and address -> the name of its spec


def register_model(spec: ModelSpec) -> ModelSpec:
    """Adds a model, so that everything that takes a model's name takes this one; returns it.

    A model whose class was defined again, as by a cell of a notebook, takes the place of the old.

    Args:
      spec: Row of the model.

    Raises:
      InputError: if its name belongs to another model.
    """
    if spec.name in _NAMES:
        owner = _SPECS[_NAMES[spec.name]]
        if owner != spec and not _defined_again(owner.build, spec.build):
            raise InputError(
                f"The name {spec.name!r} belongs to another model: give yours a name of its own."
            )
    _SPECS[spec.name] = spec
    _NAMES[spec.name] = spec.name
    for alias in spec.aliases:  # a peer may have an alias here already
        _NAMES.setdefault(alias, spec.name)
    return spec


def _defined_again(old: Any, new: Any) -> bool:
    def place(build: Any) -> tuple[str, str]:
        return build.__module__, getattr(build, "__qualname__", repr(build))

    return old is not new and place(old) == place(new)


def _is_spec(found: Any) -> bool:
    return isinstance(found, ModelSpec)


def list_models(pattern: str = "*", *, task: str | None = "classification") -> list[str]:
    """Returns the names of the models that match, sorted.

    Args:
      pattern: Shell pattern, e.g. "vit*".
      task: Task of the models, "classification", "captioning", ...; None: any.
    """
    names = fnmatch.filter(_SPECS, pattern)
    return sorted(name for name in names if task is None or _SPECS[name].task == task)


def get_spec(name: str, *, task: str | None = None) -> ModelSpec:
    """Returns the row of a model.

    Args:
      name: Name of the model: ours, or that of the same model in timm or torchvision, or the
        address of a ModelSpec outside the package, "mypackage.mymodel:spec" or
        "path/to/file.py:spec", whose module is imported and whose model is registered.
      task: Task that the model must be for; None: any.

    Raises:
      InputError: if there is no such model, where the message names the nearest ones, the address
        leads to none, or the model is for another task.
    """
    if name.startswith(_WEIGHTS):
        raise InputError(f"{name} is an address of weights: jv.from_pretrained({name!r}) opens it.")
    if name not in _NAMES and is_address(name):
        spec = import_outside(name, _is_spec, kind="a ModelSpec", example="mymodel:spec")
        _NAMES[name] = register_model(spec).name
    if name not in _NAMES:
        nearest = difflib.get_close_matches(name, _NAMES, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(nearest)}?" if nearest else "see list_models()."
        raise InputError(f"There is no model {name!r}: {hint}")
    spec = _SPECS[_NAMES[name]]
    if task not in (None, spec.task):
        raise InputError(
            f"This takes a model for {task}, but {spec.name} is for {spec.task}: see "
            "`jaxvision models`."
        )
    return spec


def is_known(name: str) -> bool:
    """Returns whether `get_spec` finds a model without importing anything.

    For names out of files that anybody may have written, such as the config of a run.
    """
    if name not in _NAMES and is_address(name):
        spec = imported_outside(name)
        if _is_spec(spec):
            _NAMES[name] = register_model(spec).name
    return name in _NAMES


def spec_with(name: str, options: Mapping[str, Any]) -> ModelSpec:
    """Returns the row of a model that is built with options.

    The pixels of a model with another encoder than its own are what the published weights of that
    one want.

    Args:
      name: Name of the model, see `get_spec`.
      options: Fields of the family's config.

    Raises:
      InputError: if there is no such model or encoder.
    """
    spec = get_spec(name)
    encoder = options.get("encoder", getattr(spec.config, "encoder", None))
    if encoder in (None, getattr(spec.config, "encoder", None)):
        return spec
    return dataclasses.replace(spec, preprocess=get_spec(encoder).preprocess)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    dtype: str = "float32",
    rngs: nnx.Rngs,
    **overrides: Any,
) -> nnx.Module:
    """Returns a new model with random parameters.

    Args:
      name: Name of the model, see `get_spec`.
      num_classes: Number of outputs of an image model's head; None: as published; 0: no head.
      dtype: Compute dtype, "float32", "bfloat16", "float16" or "float64".
      rngs: Source of the initial values.
      **overrides: Further fields of the family's config, of a captioner `vocab_size` among them.

    Raises:
      InputError: if there is no such model, or a value does not fit (a ValueError).
      TypeError: if an override is no field of the family's config; the message lists the fields.
    """
    spec = get_spec(name)
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    fields = [field.name for field in dataclasses.fields(spec.config)]
    unknown = sorted(set(overrides) - set(fields))
    if unknown:
        raise TypeError(
            f"{spec.name} has no option {', '.join(unknown)}; its options are {', '.join(fields)}."
        )
    try:
        config = dataclasses.replace(spec.config, dtype=dtype, **overrides)
        check_numbers(config, spec.config)
    except ValueError as error:
        raise InputError(f"{spec.name}: {error}") from error
    inner = getattr(config, "encoder", None)
    builds = [spec.build, *([get_spec(inner).build] if inner else [])]
    if all(build.__module__.startswith("jaxvision.models.") for build in builds):
        model = build_model(spec.build, config, rngs=rngs)
    else:
        model = spec.build(config, rngs=rngs)  # may draw in ways that `build_model` does not know
    if isinstance(model, Model):
        model.spec_name = spec.name
    return model


# A new family of image models is one import above and one entry here.
for _family in (
    vit,
    clip_vit,
    deit,
    dinov2,
    hybrid_vit,
    resnet,
    convnext,
    pvt,
    pvt_v2,
    swin,
    swin_v2,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    efficientnet,
    airbench,
):
    for _spec in _family.SPECS:
        register_model(_spec)
