"""From the options of a run to the run: opened once, checked, nothing allocated."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from jaxvision.data.augment.transforms import eval_transform
from jaxvision.errors import InputError
from jaxvision.interop.trained import pixels_of
from jaxvision.models.registry import create_model, list_models, spec_with
from jaxvision.models.spec import ModelSpec
from jaxvision.options.adapter import KINDS as ADAPTER_KINDS
from jaxvision.options.options import Options
from jaxvision.tasks.registry import open_task
from jaxvision.tasks.task import Task
from jaxvision.train.adapters import with_adapters
from jaxvision.train.augmentation import host_transform, takes_photos
from jaxvision.train.image_sizes import check_model_takes, image_size_stages
from jaxvision.train.optim.freeze import build_with_frozen_stats
from jaxvision.train.optim.layer_depth import layer_groups_of
from jaxvision.train.optim.optimizer import make_optimizer, not_decayed_names
from jaxvision.train.optim.update import (
    freeze_for_good,
    frozen_batch_norms,
    run_average,
    run_groups,
    run_schedule,
)
from jaxvision.train.preprocessing import settle_preprocessing
from jaxvision.train.run import Run
from jaxvision.train.sharding import make_mesh
from jaxvision.train.state import abstract_model, abstract_state
from jaxvision.train.step import Optimizer
from jaxvision.train.workdir import has_checkpoint, num_train_examples


def make_run(
    options: Options,
    *,
    devices: Sequence[Any] | None = None,
    workdir: str | pathlib.Path | None = None,
    training: bool = True,
) -> Run:
    """Opens the data, describes the model and makes the optimizer of a run.

    Args:
      options: Options of the run, see `read_options`.
      devices: Devices to run on; None: all of all processes.
      workdir: Folder of the run. If there is one already, its classes are what labels mean.
      training: Whether training batches are read: only then must they divide over the devices, and
        only then is a training split needed.

    Raises:
      InputError: for anything in the options that cannot work, with what to type.
    """
    mesh = make_mesh(data=options.mesh.data, fsdp=options.mesh.fsdp, devices=devices)
    kept = None
    if workdir is not None and has_checkpoint(workdir):
        kept = pathlib.Path(workdir).expanduser().absolute()
    options = settle_preprocessing(options, _row(options), kept)
    data, num_examples = options.data, num_train_examples(kept)
    training = training or options.eval.batch_norm_batches > 0
    _check_batch_sizes(options, mesh.size, training=training)
    task = open_task(options, kept, training=training or not num_examples)
    options.check_metrics(task.metric_names())
    if training and data.sampling_power != 1.0 and task.data.sampling is None:
        raise InputError(
            f"--config.data.sampling={data.sampling} is for --config.task=classification, got "
            f"'{options.task}': set it to uniform."
        )
    try:
        spec, build = _describe_model(options, task)
        spec = pixels_of({"mean": data.mean, "std": data.std}, spec)
        task, build = task.fit_model(build, options)
        graphdef, params, stats = abstract_model(build)
        if options.optimizer.preset in ADAPTER_KINDS:
            build = with_adapters(build, params, options)
            graphdef, params, stats = abstract_model(build)
        model = nnx.merge(graphdef, params, stats)
    except (ValueError, TypeError) as error:  # a name, option or size that the model refuses
        raise InputError(f"config.model: {str(error).splitlines()[0]}") from error

    length = options.length(len(task.data.train_source) or num_examples)
    stages = image_size_stages(data, length)
    check_model_takes(build, stages, eval_size=data.image_size)
    schedule = run_schedule(options, length)
    groups = run_groups(options, params, layer_groups=layer_groups_of(model), length=length)
    groups = freeze_for_good(groups, getattr(model, "frozen_prefixes", ()))
    frozen = frozen_batch_norms(options.model.freeze_batch_stats, groups)
    if frozen:
        build = functools.partial(build_with_frozen_stats, build=build, frozen=frozen)
        graphdef, params, _ = abstract_model(build)
    tx = make_optimizer(
        params,
        options.optimizer,
        schedule=schedule,
        groups=groups,
        not_decayed=not_decayed_names(model),
        upper_bounds=getattr(model, "upper_bounds", None),
        with_rate_factor=options.schedule.is_plateau,
    )
    average = run_average(options, length)
    train_transforms = tuple(
        host_transform(options.augment, size, interpolation=data.interpolation)
        for _, size in stages
    )
    if data.reduced_decoding and not all(map(takes_photos, train_transforms)):
        raise InputError(
            "--config.data.reduced_decoding is for --config.augment.crop=random_resized on the host"
            " without crop_antialias, and this augmentation does something else first: set it to"
            " False."
        )
    return Run(
        options=options,
        length=length,
        evaluations=length.cadence(options.eval, group="eval"),
        checkpoints=length.cadence(options.checkpoint, group="checkpoint"),
        log_lines=length.cadence(options.log, group="log"),
        task=task,
        spec=spec,
        build=build,
        graphdef=graphdef,
        mesh=mesh,
        image_sizes=stages,
        train_transforms=train_transforms,
        eval_transform=eval_transform(
            data.image_size,
            eval_resize=data.eval_resize,
            interpolation=data.interpolation,
            crop_mode=data.eval_crop,
        ),
        average=average,
        groups=groups,
        optimizer=Optimizer(tx, schedule),
        abstract_state=abstract_state(
            build,
            tx,
            mesh=mesh,
            rules=options.sharding_rules,
            ema=average is not None,
            loss_scale=options.model.dtype == "float16",
        ),
    )


def _check_batch_sizes(options: Options, num_devices: int, *, training: bool) -> None:
    """Checks that batches divide over devices and micro-batches."""
    unit = num_devices * options.accumulate_steps
    for name, size, divisor in (
        ("batch_size", options.batch_size, unit if training else 1),
        ("eval_batch_size", options.eval_batch_size, num_devices),
    ):
        if size < 1 or size % divisor:
            raise InputError(
                f"--config.{name} must be a multiple of {divisor} ({num_devices} devices"
                + (f" x {options.accumulate_steps} micro-batches" if divisor == unit else "")
                + f"), got {size}."
            )


def _row(options: Options) -> ModelSpec:
    try:
        return spec_with(options.model.name, options.model.kwargs)
    except InputError as error:
        raise InputError(f"config.model: {error}") from error


def _describe_model(
    options: Options, task: Task
) -> tuple[ModelSpec, Callable[[nnx.Rngs], nnx.Module]]:
    """Returns the row of the model, and the function that builds it from `nnx.Rngs`."""
    model = options.model
    spec = _row(options)
    model_task = task.model_task or task.name
    if spec.task != model_task:
        fitting = list_models(task=model_task)
        raise InputError(
            f"{spec.name} is a model for {spec.task}, not for --config.task={options.task}: choose "
            f"{', '.join(fitting[:3])} ... (jaxvision models)."
        )
    kwargs = {name: _hashable(value) for name, value in model.kwargs.items()}
    _check_counts(kwargs, spec.config)
    _check_remat(kwargs.get("remat", False))
    fields = dict(task.data.model_options) | kwargs
    if "image_size" in {field.name for field in dataclasses.fields(spec.config)}:
        fields.setdefault("image_size", options.data.image_size)
    option = spec.outputs_option
    outputs = {} if option is None else {option: task.data.num_outputs}
    build = functools.partial(_build, name=spec.name, dtype=model.dtype, **outputs, **fields)
    return spec_with(spec.name, fields), build


def _check_counts(kwargs: dict[str, Any], defaults: Any) -> None:
    """Checks that what counts something in config.model.kwargs is a whole number of at least 1.

    Args:
      kwargs: Fields of the family's config that are set.
      defaults: The family's config, whose whole numbers are the counts.
    """
    for name, value in kwargs.items():
        is_count = type(getattr(defaults, name, None)) is int and name != "image_size"
        if is_count and not (type(value) is int and value >= 1):
            raise InputError(f"{name} must be a whole number of at least 1, got {value!r}.")


def _check_remat(remat: Any) -> None:
    """Checks config.model.kwargs.remat, and that the devices can do what it asks for."""
    if remat not in (False, True, "offload"):
        raise InputError(
            f"--config.model.kwargs.remat must be False, True or offload, got {remat!r}."
        )
    device = jax.local_devices()[0]
    kinds = {memory.kind for memory in device.addressable_memories()}
    if remat == "offload" and "pinned_host" not in kinds:
        raise InputError(
            f"--config.model.kwargs.remat=offload needs devices that reach the memory of the host, "
            f"but a {device.device_kind} reaches only {', '.join(sorted(kinds))}: set it to True."
        )


def _hashable(value: Any) -> Any:
    """Returns a value of the options as a model's config holds it."""
    if isinstance(value, dict):
        return tuple((name, _hashable(inner)) for name, inner in value.items())
    return value


def _build(rngs: nnx.Rngs, *, name: str, **kwargs: Any) -> nnx.Module:
    return create_model(name, rngs=rngs, **kwargs)
