"""What is known of weights before they are read: model, preprocessing, names of the classes."""

import os
import pathlib

from jaxvision.interop import hub, pretrained
from jaxvision.interop.assign import OWN
from jaxvision.interop.hub_config import Description, describe_config
from jaxvision.interop.run_folder import RunFolder, is_run, open_run
from jaxvision.interop.weight_folder import CONFIG, PREPROCESSOR, Beside, read_beside, usual_file
from jaxvision.models.registry import get_spec, is_known
from jaxvision.models.spec import ModelSpec, Preprocess
from jaxvision.options.data import usual_resize
from jaxvision.options.size import sides


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
    config = hub.fetch_if_there(f"{repository}/{CONFIG}")
    if config is None:
        return None
    hub.fetch_if_there(f"{repository}/{PREPROCESSOR}")
    return _of_beside(read_beside(config.with_name("model.safetensors")), address)


def _of_beside(beside: Beside, name: str) -> Description | None:
    if beside.config is None and beside.preprocessor is None:
        return None
    return describe_config(beside.config or {}, beside.preprocessor, name=name)
