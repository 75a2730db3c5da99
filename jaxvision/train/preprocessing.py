"""How a run prepares its images: as asked for, else as the weights want it that it starts from."""

import dataclasses
import pathlib
from typing import Any

from flax import nnx

from jaxvision.errors import InputError
from jaxvision.interop.assign import detect_source
from jaxvision.interop.describe import describe_weights, usual_weights
from jaxvision.interop.hub_config import Description
from jaxvision.interop.read import read_file_or_run
from jaxvision.models.registry import create_model, get_spec
from jaxvision.models.spec import ModelSpec, Preprocess
from jaxvision.options.data import AUTO, DataOptions, usual_resize
from jaxvision.options.options import Options
from jaxvision.options.size import sides
from jaxvision.train.workdir import flat, stored_options

_FIELDS = ("mean", "std", "interpolation", "eval_crop", "eval_resize")


def settle_preprocessing(
    options: Options, spec: ModelSpec, run: pathlib.Path | None = None
) -> Options:
    """Returns the options with mean, deviation, resize and crop of the images decided.

    What is decided is kept with the run, so that whoever opens it prepares images in the same way.

    Args:
      options: Options of the run, in which they may be left open.
      spec: Row of the model.
      run: Folder of the run if there is one already, which has decided; None: there is none.

    Raises:
      InputError: if the weights to start from cannot be read.
    """
    if run is not None:
        stored = flat(stored_options(run))
        decided = {x: _plain(stored[f"data.{x}"]) for x in _FIELDS if f"data.{x}" in stored}
        return dataclasses.replace(options, data=_filled(options.data, decided))
    side = min(sides(options.data.image_size))
    wanted = _wanted(options, spec)
    usual: dict[str, Any] = {
        "mean": spec.preprocess.mean,
        "std": spec.preprocess.std,
        "interpolation": "bilinear",
        "eval_crop": "center",
        "eval_resize": usual_resize(side),
    }
    if wanted is not None:
        usual |= {
            "mean": wanted.mean,
            "std": wanted.std,
            "interpolation": wanted.interpolation,
            "eval_crop": wanted.crop_mode,
            "eval_resize": wanted.resize(side),
        }
    return dataclasses.replace(options, data=_filled(options.data, usual))


def _wanted(options: Options, spec: ModelSpec) -> Preprocess | None:
    """Returns the preprocessing of the weights that a run starts from; None: nobody knows it."""
    model = options.model
    encoder = model.kwargs.get("encoder", getattr(spec.config, "encoder", None))
    model_of = {"init_from": None if encoder else spec.name, "encoder_from": encoder}
    # The weights of an encoder are put in last, and it is the encoder that sees the images.
    for option, path in (("encoder_from", model.encoder_from), ("init_from", model.init_from)):
        if path:
            try:
                known = describe_weights(path)
                if known is None or known.preprocess is None:
                    known = _by_names(path, model_of[option], model.init_part) or known
            except InputError as error:
                raise InputError(f"config.model.{option}: {error}") from error
            return known.preprocess if known is not None else None
    return None


def _by_names(path: str, name: str | None, part: str) -> Description | None:
    """Returns what the library wants whose names a file has that says nothing else."""
    if name is None:
        return None
    model = nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))
    file = read_file_or_run(path, model, part=part or None)
    source = file.source or detect_source(model, file.weights)
    return usual_weights(get_spec(name), source, of=path)


def _filled(data: DataOptions, values: dict[str, Any]) -> DataOptions:
    unset: dict[str, Any] = {
        "mean": (), "std": (), "interpolation": AUTO, "eval_crop": AUTO, "eval_resize": -1,
    }  # fmt: skip
    open_ones = {name: x for name, x in values.items() if getattr(data, name) == unset[name]}
    return dataclasses.replace(data, **open_ones)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
