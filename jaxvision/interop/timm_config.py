"""The `config.json` by which timm opens a model of the Hugging Face hub."""

import dataclasses
from typing import Any

from jaxvision.errors import InputError
from jaxvision.interop.assign import source_of, weight_names
from jaxvision.interop.hub_config import ARGUMENTS
from jaxvision.models.registry import get_spec
from jaxvision.models.spec import Model, Preprocess
from jaxvision.options.size import Size, sides

# Fields that change nothing of what a model computes when it evaluates.
_OF_TRAINING = frozenset(
    {"num_classes", "dtype", "scan", "remat", "attention", "norm_momentum", "zero_init_last"}
)
_ARGUMENTS = {ours: theirs for theirs, ours in ARGUMENTS.items()}


def timm_config(
    model: Model, preprocess: Preprocess, image_size: Size, class_names: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Returns what timm needs to build a model and to prepare its images.

    Args:
      model: Model of `create_model`.
      preprocess: Preprocessing of an image for its weights.
      image_size: Size of the images in pixels.
      class_names: Names of the classes by label; empty if nobody knows them.

    Raises:
      InputError: if timm has no such model.
    """
    spec = get_spec(str(model.spec_name))
    if spec.timm is None:
        raise InputError(
            f"timm has no {spec.name}: jv.save_weights(model, path, format='jaxvision') keeps it"
            " under our own names."
        )
    arguments, config = {}, model.config
    for field in dataclasses.fields(spec.config):
        value, usual = getattr(config, field.name), getattr(spec.config, field.name)
        of_training = field.name in _OF_TRAINING or field.name.endswith("_rate")
        if value == usual or of_training:
            continue
        if field.name not in _ARGUMENTS:
            raise InputError(
                f"timm's {spec.timm} has no option for {field.name}={value!r} of this model:"
                " jv.save_weights(model, path, format='jaxvision') keeps it under our own names."
            )
        value = {"average": "avg"}.get(value, value) if field.name == "pool" else value
        arguments[_ARGUMENTS[field.name]] = list(value) if isinstance(value, tuple) else value
    heads, first = _modules(model)
    return {
        "architecture": spec.timm,
        "num_classes": config.num_classes,
        **({"model_args": arguments} if arguments else {}),
        **({"label_names": list(class_names)} if class_names else {}),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [getattr(config, "in_channels", 3), *sides(image_size)],
            "fixed_input_size": hasattr(spec.config, "image_size"),
            "interpolation": preprocess.interpolation,
            "crop_pct": preprocess.crop_fraction,
            "crop_mode": preprocess.crop_mode,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "num_classes": config.num_classes,
            "first_conv": first,
            "classifier": heads[0] if len(heads) == 1 else heads,
        },
    }


def _modules(model: Model) -> tuple[list[str], str | None]:
    """Returns timm's names of the classifiers and of the first convolution."""
    source, _ = source_of(model, "timm")
    names = {
        path: name for name, paths in weight_names(model, format="timm").items() for path in paths
    }
    parts = [names[p] for head in source.heads if (p := f"{head}/kernel") in names]
    first = [names[path] for path in source.fits if path in names and path.endswith("kernel")]
    return (
        [name.removesuffix(".weight") for name in parts],
        first[0].removesuffix(".weight") if first else None,
    )
