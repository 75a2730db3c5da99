"""What is known of weights before they are read: model, preprocessing, names of the classes."""

import dataclasses
import os
import pathlib
from typing import Any

from jaxvision.errors import InputError
from jaxvision.interop import hub, pretrained
from jaxvision.interop.assign import OWN
from jaxvision.interop.hub_config import Description, describe_config
from jaxvision.interop.run_folder import RunFolder, is_run, open_run
from jaxvision.interop.weight_folder import CONFIG, PREPROCESSOR, Beside, read_beside, usual_file
from jaxvision.models.registry import get_spec, is_known
from jaxvision.models.spec import Model, ModelSpec, Preprocess
from jaxvision.options.data import AUTO, usual_resize
from jaxvision.options.size import Size, sides


def describe_weights(path: str | os.PathLike) -> Description | None:
    """Returns what is known of weights; None if nothing tells it.

    A tag, and a file with the name of a published one, are looked up in the table; a run says it
    itself; timm and transformers put a `config.json` beside their weights.

    Args:
      path: Tag or path of the weights, as `load_weights` takes it.

    Raises:
      InputError: if the description cannot be had, or is damaged.
    """
    name = os.fspath(path)
    pretrained.check_address(name)
    row = pretrained.published(name)
    if row is not None and row.preprocess is not None:
        return _of_row(row)
    if row is not None:
        name = row.address
    if name.startswith(hub.PREFIX):
        return _of_hub(name)
    place = pathlib.Path(name).expanduser()
    if is_run(place):
        return _of_run(open_run(place), name)
    row = pretrained.with_file_name(place.name)
    if row is not None:
        return _of_row(row)
    file = usual_file(place) if place.is_dir() else place
    return None if file is None else _of_beside(read_beside(file), name)


def usual_weights(spec: ModelSpec, source: str, *, of: str) -> Description | None:
    """Returns what a library wants for its first weights of a model; None: it has published none.

    For weights that say nothing but whose names they have.

    Args:
      spec: Row of the model.
      source: Library whose names the weights have.
      of: Name of the weights.
    """
    for row in map(pretrained.get_weights, pretrained.list_weights(spec.name)):
        if row.source == source and row.preprocess is not None:
            return Description(
                name=f"weights like {row.tag}, for which {of} is taken",
                source=source,
                preprocess=row.preprocess,
            )
    return None


def completed(
    known: Description | None, spec: ModelSpec, source: str, *, of: str
) -> Description | None:
    """Returns a description with the preprocessing of `usual_weights` if it tells none itself.

    Args:
      known: Description of the weights; None: nothing tells of them.
      spec: Row of the model.
      source: Library whose names the weights have.
      of: Name of the weights.
    """
    if known is not None and known.preprocess is not None:
        return known
    usual = usual_weights(spec, source, of=of)
    if known is None or usual is None:
        return known or usual
    return dataclasses.replace(known, name=usual.name, preprocess=usual.preprocess)


def _of_row(row: pretrained.PretrainedWeights) -> Description:
    return Description(
        name=row.tag,
        source=row.source,
        model=row.model,
        image_size=row.image_size,
        preprocess=row.preprocess,
        class_names=row.class_names,
    )


def check_padding(known: Description | None, model: Model) -> None:
    """Checks that weights whose model is known are not given to its twin with other padding.

    TensorFlow's EfficientNets and MobileNets have the names and shapes of the others, so that the
    weights would fit, and the outputs be wrong.

    Args:
      known: Description of the weights; None: nothing tells of them.
      model: Model that they are given to, also of shapes.

    Raises:
      InputError: if the padding is another.
    """
    if known is None or known.model in (None, model.spec_name) or known.source == OWN:
        return
    wanted, found = (
        getattr(config, "padding", None) for config in (get_spec(known.model).config, model.config)
    )
    if wanted is not None and found is not None and wanted != found:
        raise InputError(
            f"{known.name} belongs to {known.model}, whose padding is {wanted!r}, not to a model"
            f" with {found!r}: use create_model({known.model!r}), or --model={known.model}."
        )


def run_preprocess(run: RunFolder, colors: Preprocess) -> tuple[Preprocess, Size]:
    """Returns how a run prepares its evaluation images, and their size in pixels.

    Args:
      run: Run on disk; one of an older version has not decided everything.
      colors: Preprocessing whose mean and deviation are meant where the run has decided on none.
    """
    data = run.config["data"]
    size = tuple(data["image_size"]) if isinstance(data["image_size"], list) else data["image_size"]
    side, resize = min(sides(size)), data["eval_resize"]
    # An image that is not resized has the size of the crop.
    resize = usual_resize(side) if resize == -1 else resize or side
    chosen = {"interpolation": data["interpolation"], "crop_mode": data["eval_crop"]}
    chosen = {name: value for name, value in chosen.items() if value != AUTO}
    usual: dict[str, Any] = {"interpolation": "bilinear", "crop_mode": "center"}
    pixels: dict[str, Any] = {"mean": colors.mean, "std": colors.std}
    pixels |= {name: tuple(data[name]) for name in pixels if data[name]}
    return Preprocess(**pixels, crop_fraction=side / resize, **usual | chosen), size


def _of_run(run: RunFolder, name: str) -> Description:
    model, colors = run.config["model"]["name"], None
    if is_known(model):
        colors = get_spec(model).preprocess
    elif run.config["data"]["mean"]:
        colors = Preprocess()
    preprocess, size = run_preprocess(run, colors or Preprocess())
    return Description(
        name=name,
        source=OWN,
        model=model,
        image_size=size,
        preprocess=None if colors is None else preprocess,
        class_names=run.class_names,
    )


def _of_hub(address: str) -> Description | None:
    row = pretrained.with_address(address)
    if row is not None and row.preprocess is not None:
        return _of_row(row)
    repository = hub.repository(address)
    config = hub.fetch_if_there(f"{repository}/{CONFIG}")
    if config is None:
        return None
    hub.fetch_if_there(f"{repository}/{PREPROCESSOR}")
    return _of_beside(read_beside(config.with_name("model.safetensors")), address)


def _of_beside(beside: Beside, name: str) -> Description | None:
    if beside.config is None and beside.preprocessor is None:
        return None
    return describe_config(beside.config or {}, beside.preprocessor, name=name)
