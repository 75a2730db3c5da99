"""From a config to the objects of a run; below this file, functions take ordinary arguments."""

import dataclasses
import functools
from typing import Any

from flax import nnx

from jaxvision.data.augment.transforms import eval_transform
from jaxvision.errors import InputError
from jaxvision.models.registry import ModelSpec, create_model, get_spec, list_models, spec_with
from jaxvision.train.augmentation import host_transform
from jaxvision.train.check import (
    check_model_sizes,
    check_numbers,
    check_remat,
    check_sharding_rules,
    check_sizes,
)
from jaxvision.train.check_evaluation import check_evaluation
from jaxvision.train.image_sizes import check_model_takes, image_size_stages
from jaxvision.train.optim.freeze import build_with_frozen_stats
from jaxvision.train.optim.update import (
    freeze_encoder,
    frozen_batch_norms,
    groups_of,
    optimizer_of,
    schedule_of,
    swa_of,
)
from jaxvision.train.progress import progress_of
from jaxvision.train.run import Run
from jaxvision.train.sharding import make_mesh
from jaxvision.train.state import abstract_model
from jaxvision.train.task_data import TaskData, open_task, task_metrics
from jaxvision.train.teacher import with_projection
from jaxvision.train.workdir import Config


def total_steps(config: Config, num_examples: int) -> int:
    """Returns the updates of the run, given as `total_steps` or as `total_epochs`."""
    if (config.total_steps > 0) == (config.total_epochs > 0):
        raise InputError(
            "Give exactly one of --config.total_steps and --config.total_epochs, got "
            f"{config.total_steps} steps and {config.total_epochs} epochs."
        )
    return config.total_steps or max(
        1, round(config.total_epochs * num_examples / config.batch_size)
    )


def make_run(config: Config) -> Run:
    """Opens the data, describes the model and makes the optimizer of a config.

    Raises:
      InputError: for anything in the config that cannot work, with what to type.
    """
    mesh = make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp)
    check_numbers(config, metrics=task_metrics(config.task))
    check_sizes(config, mesh.size)
    check_sharding_rules(config.sharding_rules)
    check_evaluation(config)
    progress_of(config)  # refuses what cannot work
    data = config.data
    opened = open_task(config)
    try:
        spec, build = _describe_model(config, opened)
        family = _image_family(spec, build)
        frozen_encoder = _option(spec, build, "freeze_encoder")
        if opened.teacher is not None and config.distill.features != "none":
            build, task = with_projection(config, build, opened.task, opened.teacher)
            opened = dataclasses.replace(opened, task=task)
        graphdef, params, _ = abstract_model(build)
    except (ValueError, TypeError) as error:  # a name, option or size that the model refuses
        raise InputError(f"config.model: {str(error).splitlines()[0]}") from error

    steps = total_steps(config, len(opened.train_source))
    lengths: Any = {"total_steps": steps, "num_examples": len(opened.train_source)}
    stages = image_size_stages(config, **lengths)
    check_model_takes(build, stages, eval_size=data.image_size)
    schedule = schedule_of(config, **lengths)
    groups = groups_of(config, params, family=family, **lengths)
    if frozen_encoder:
        groups = freeze_encoder(groups)
    frozen = frozen_batch_norms(config, groups)
    if frozen:
        build = functools.partial(build_with_frozen_stats, build=build, frozen=frozen)
        graphdef, params, _ = abstract_model(build)
    tx = optimizer_of(config, params, schedule=schedule, groups=groups)
    return Run(
        config=config,
        total_steps=steps,
        spec=spec,
        build=build,
        graphdef=graphdef,
        mesh=mesh,
        data=opened,
        image_sizes=stages,
        train_transforms=tuple(host_transform(config, size) for _, size in stages),
        eval_transform=eval_transform(
            data.image_size, eval_resize=data.eval_resize, interpolation=data.interpolation
        ),
        schedule=schedule,
        swa=swa_of(config, **lengths),
        groups=groups,
        tx=tx,
    )


def _describe_model(config: Config, opened: TaskData) -> tuple[ModelSpec, Any]:
    """Returns the row of the model, and the function that builds it from `nnx.Rngs`."""
    model = config.model
    spec = get_spec(model.name)
    if spec.task != config.task:
        fitting = list_models(task=config.task)
        raise InputError(
            f"{spec.name} is a model for {spec.task}, not for --config.task={config.task}: choose "
            f"{', '.join(fitting[:3])} ... (python -m jaxvision models)."
        )
    kwargs = {name: _hashable(value) for name, value in model.kwargs.items()}
    check_model_sizes(kwargs, spec.config)
    check_remat(kwargs.get("remat", False))
    options = opened.model_options | kwargs
    if "image_size" in {field.name for field in dataclasses.fields(spec.config)}:
        options.setdefault("image_size", config.data.image_size)
    build = functools.partial(
        _build, name=spec.name, num_classes=opened.num_outputs, dtype=model.dtype, **options
    )
    return spec_with(spec.name, options), build


def _image_family(spec: ModelSpec, build: Any) -> str:
    """Returns the family of the image model; of a captioner, of its encoder."""
    encoder = _option(spec, build, "encoder")
    return spec.family if encoder is None else get_spec(encoder).family


def _option(spec: ModelSpec, build: Any, name: str) -> Any:
    """Returns a field of the model's config; None where its family has none of that name."""
    return build.keywords.get(name, getattr(spec.config, name, None))


def _hashable(value: Any) -> Any:
    """Returns a value of a config as a model's config holds it."""
    if hasattr(value, "items"):
        return tuple((name, _hashable(inner)) for name, inner in value.items())
    return value


def _build(rngs: nnx.Rngs, *, name: str, **kwargs: Any) -> nnx.Module:
    return create_model(name, rngs=rngs, **kwargs)
