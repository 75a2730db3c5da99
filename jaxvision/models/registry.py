"""The list of all models, and the door to them."""

import dataclasses
import difflib
import fnmatch
from collections.abc import Mapping
from typing import Any

from flax import nnx

from jaxvision.errors import InputError
from jaxvision.models import (
    captioner,
    convnext,
    deit,
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
from jaxvision.models.spec import ModelSpec

# A new family is one import and one entry here.
_SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        *vit.SPECS,
        *deit.SPECS,
        *hybrid_vit.SPECS,
        *resnet.SPECS,
        *convnext.SPECS,
        *pvt.SPECS,
        *pvt_v2.SPECS,
        *swin.SPECS,
        *swin_v2.SPECS,
        *mobilenet_v1.SPECS,
        *mobilenet_v2.SPECS,
        *mobilenet_v3.SPECS,
        *efficientnet.SPECS,
        *captioner.SPECS,
    )
}
_NAMES: dict[str, str] = {
    name: spec.name for spec in _SPECS.values() for name in (spec.name, *spec.aliases)
}


def list_models(pattern: str = "*", *, task: str | None = "classification") -> list[str]:
    """Returns the names of the models that match, sorted.

    Args:
      pattern: shell pattern, e.g. "vit*".
      task: "classification" or "captioning"; None: any.
    """
    names = fnmatch.filter(_SPECS, pattern)
    return sorted(name for name in names if task is None or _SPECS[name].task == task)


def get_spec(name_or_alias: str, *, task: str | None = None) -> ModelSpec:
    """Returns the table row of a model.

    Args:
      name_or_alias: our name, or the name of the same model in timm or torchvision.
      task: that the model must be for; None: any.

    Raises:
      InputError: if there is no such model, where the message names the nearest ones, or it is for
        another task.
    """
    if name_or_alias not in _NAMES:
        nearest = difflib.get_close_matches(name_or_alias, _NAMES, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(nearest)}?" if nearest else "see list_models()."
        raise InputError(f"There is no model {name_or_alias!r}: {hint}")
    spec = _SPECS[_NAMES[name_or_alias]]
    if task not in (None, spec.task):
        raise InputError(
            f"This takes a model for {task}, but {spec.name} is for {spec.task}: see "
            "`python -m jaxvision models`."
        )
    return spec


def spec_with(name_or_alias: str, options: Mapping[str, Any]) -> ModelSpec:
    """Returns the table row of a model that is built with options.

    A captioner's pixels are what the published weights of its encoder want.

    Args:
      name_or_alias: see `get_spec`.
      options: fields of the family's config.

    Raises:
      InputError: if there is no such model or encoder.
    """
    spec = get_spec(name_or_alias)
    encoder = options.get("encoder", getattr(spec.config, "encoder", None))
    if encoder is None:
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
      name: our name, or the name of the same model in timm or torchvision.
      num_classes: outputs of the head, of a captioner the size of its vocabulary; None: as
        published; 0: no head.
      dtype: compute dtype, "float32", "bfloat16", "float16" or "float64".
      rngs: source of the initial values.
      **overrides: further fields of the family's config.

    Raises:
      InputError: if there is no such model, or a value does not fit (a ValueError).
      TypeError: if an override is no field of the family's config; the message lists the fields.
    """
    spec = get_spec(name)
    fields = [field.name for field in dataclasses.fields(spec.config)]
    unknown = sorted(set(overrides) - set(fields))
    if unknown:
        raise TypeError(
            f"{spec.name} has no option {', '.join(unknown)}; its options are {', '.join(fields)}."
        )
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    try:
        config = dataclasses.replace(spec.config, dtype=dtype, **overrides)
    except ValueError as error:
        raise InputError(f"{spec.name}: {error}") from error
    return spec.build(config, rngs=rngs)
