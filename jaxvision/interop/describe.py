"""What is known of weights before they are read: model, preprocessing, names of the classes."""

import os
import pathlib

from flax import nnx

from jaxvision.errors import InputError
from jaxvision.files import read_json
from jaxvision.interop import hub, pretrained
from jaxvision.interop.hub_config import Description, describe_config
from jaxvision.interop.load import OWN, WeightFile, detect_source, read_file_or_run
from jaxvision.interop.run_folder import RunFolder, is_run, open_run
from jaxvision.models.registry import create_model, get_spec, is_known
from jaxvision.models.spec import ModelSpec, Preprocess
from jaxvision.options.data import usual_resize
from jaxvision.options.size import sides

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
# Beside these a config.json is theirs; a file of any other name may lie beside anybody's.
_USUAL_NAMES = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json",
                "pytorch_model.bin.index.json")  # fmt: skip


def describe_weights(
    path: str | os.PathLike,
    spec: ModelSpec | None = None,
    file: WeightFile | None = None,
) -> Description | None:
    """Returns what is known of weights; None if nothing tells it.

    A tag, and a file with the name of a published one, are looked up in the table; a run says it
    itself; timm and transformers put a `config.json` beside their weights. What says nothing is
    taken for weights of the library whose names it has.

    Args:
      path: Tag or path of the weights, as `load_weights` takes it.
      spec: Row of the model that they are for; None: it is not known.
      file: What `read_file_or_run` has read from there; None: it is read, if that is needed.

    Raises:
      InputError: if the weights cannot be found, or their description is damaged.
    """
    name = os.fspath(path)
    place = pathlib.Path(name).expanduser()
    if not place.exists() and pretrained.is_tag(name):
        row = pretrained.get_weights(name)
        if row.preprocess is not None:
            return _of_row(row)
        name = row.address
    if name.startswith(hub.PREFIX):
        return _of_hub(name)
    if place.is_dir() and is_run(place):
        return _of_run(open_run(place), name)
    row = pretrained.with_file_name(place.name)
    if row is not None:
        return _of_row(row)
    folder = place if place.is_dir() else place.parent if place.name in _USUAL_NAMES else None
    if folder is not None and (folder / _CONFIG).is_file():
        return _of_configs(folder / _CONFIG, folder / _PREPROCESSOR, name)
    return None if spec is None else _by_names(name, spec, file or read_file_or_run(name))


def _of_row(row: pretrained.PretrainedWeights) -> Description:
    return Description(
        name=row.tag,
        source=row.source,
        model=row.model,
        image_size=row.image_size,
        preprocess=row.preprocess,
        class_names=row.class_names,
    )


def _of_run(run: RunFolder, name: str) -> Description:
    model, data = run.config["model"]["name"], run.config["data"]
    size = tuple(data["image_size"]) if isinstance(data["image_size"], list) else data["image_size"]
    preprocess = None
    if data["mean"]:
        resize, side = data["eval_resize"], min(sides(size))
        preprocess = Preprocess(
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            interpolation=data["interpolation"],
            crop_fraction=side / (resize or usual_resize(side)),
            crop_mode=data["eval_crop"],
        )
    elif is_known(model):  # of an older version, which had those of the model
        preprocess = get_spec(model).preprocess
    return Description(
        name=name,
        source=OWN,
        model=model,
        image_size=size,
        preprocess=preprocess,
        class_names=run.class_names,
    )


def _of_hub(address: str) -> Description | None:
    row = pretrained.with_address(address)
    if row is not None and row.preprocess is not None:
        return _of_row(row)
    repository = hub.repository(address)
    config = hub.fetch_if_there(f"{repository}/{_CONFIG}")
    if config is None:
        return None
    return _of_configs(config, hub.fetch_if_there(f"{repository}/{_PREPROCESSOR}"), address)


def _of_configs(config: pathlib.Path, preprocessor: pathlib.Path | None, name: str) -> Description:
    contents = []
    for file in (config, preprocessor):
        try:
            contents.append(read_json(file) if file is not None and file.is_file() else None)
        except (OSError, ValueError) as error:
            raise InputError(f"{file} is damaged ({error}): restore it.") from error
    return describe_config(contents[0] or {}, contents[1], name=name)


def _by_names(name: str, spec: ModelSpec, file: WeightFile) -> Description | None:
    """Returns what the library of a file wants for its usual weights of a model."""
    source = file.source
    if source is None:
        model = nnx.eval_shape(lambda: create_model(spec.name, rngs=nnx.Rngs(0)))
        source = detect_source(model, file.weights)
    for row in map(pretrained.get_weights, pretrained.list_weights(spec.name)):
        if row.source == source and row.preprocess is not None:
            return Description(
                name=f"{name}, taken for weights like {row.tag}",
                source=source,
                preprocess=row.preprocess,
            )
    return None
