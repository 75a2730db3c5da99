"""From a config to the objects of a run; below this file, functions take ordinary arguments."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import optax
from flax import nnx

from jaxvision.batch import check_batch
from jaxvision.data.image import Transform
from jaxvision.data.pipeline import CorruptCounter, eval_dataset, train_dataset
from jaxvision.data.sources import Source, open_source
from jaxvision.data.transforms import eval_transform, train_transform
from jaxvision.errors import InputError
from jaxvision.models.registry import ModelSpec, create_model, get_spec
from jaxvision.tasks.classification import Classification
from jaxvision.train.check import (
    check_classes,
    check_model_sizes,
    check_numbers,
    check_sharding_rules,
    check_sizes,
)
from jaxvision.train.mix import mix
from jaxvision.train.optimizer import make_optimizer
from jaxvision.train.schedule import make_schedule
from jaxvision.train.sharding import make_mesh, put_batch
from jaxvision.train.state import TrainState, abstract_model, abstract_state
from jaxvision.train.step import make_eval_step, make_preprocess, make_train_step
from jaxvision.train.workdir import Config


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config describes, opened and checked; nothing is trained or allocated yet.

    Attributes:
      config: the config it was made from.
      total_steps: updates of the whole run.
      spec: of the model.
      build: makes the model from `nnx.Rngs`.
      graphdef: of the model.
      mesh: the devices.
      train_source: random access to the training records.
      eval_source: random access to the evaluation records.
      train_transform: augmentation of one training image.
      eval_transform: resize and crop of one evaluation image.
      task: loss and evaluation.
      schedule: learning rate of each update.
      tx: the optimizer.
    """

    config: Config
    total_steps: int
    spec: ModelSpec
    build: Callable[[nnx.Rngs], nnx.Module]
    graphdef: nnx.GraphDef
    mesh: jax.sharding.Mesh
    train_source: Source
    eval_source: Source
    train_transform: Transform
    eval_transform: Transform
    task: Classification
    schedule: optax.Schedule
    tx: optax.GradientTransformation

    @property
    def num_classes(self) -> int:
        """Classes of the head."""
        return self.config.model.num_classes or len(self.train_source.class_names)

    @property
    def preprocess(self) -> Callable[[jax.Array], jax.Array]:
        """Uint8 images to the model's normalised input, on the device."""
        return make_preprocess(mean=self.spec.preprocess.mean, std=self.spec.preprocess.std)

    @property
    def mix(self) -> Callable | None:
        """(key, images, labels) -> (images, soft labels), or None without mixup and cutmix."""
        augment = self.config.augment
        if not (augment.mixup_alpha > 0 or augment.cutmix_alpha > 0):
            return None
        return functools.partial(
            mix,
            num_classes=self.num_classes,
            mixup_alpha=augment.mixup_alpha,
            cutmix_alpha=augment.cutmix_alpha,
            mix_probability=augment.mix_probability,
            cutmix_probability=augment.cutmix_probability,
        )

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """The shapes, dtypes and shardings of the state."""
        return abstract_state(
            self.build,
            self.tx,
            mesh=self.mesh,
            rules=self.config.sharding_rules,
            ema=self.config.ema_decay > 0,
        )

    def train_step(self) -> Callable:
        """Returns the jitted training step."""
        return make_train_step(
            self.graphdef,
            self.task,
            self.tx,
            schedule=self.schedule,
            preprocess=self.preprocess,
            mix=self.mix,
            ema_decay=self.config.ema_decay,
            ema_warmup=self.config.ema_warmup,
            accumulate_steps=self.config.accumulate_steps,
            shardings=jax.tree.map(lambda x: x.sharding, self.abstract_state),
        )

    def eval_step(self) -> Callable:
        """Returns the jitted evaluation step."""
        return make_eval_step(self.graphdef, self.task, preprocess=self.preprocess)

    def train_batches(self) -> Any:
        """Returns the endless host iterator over this process's part of the training batches."""
        config, data = self.config, self.config.data
        return train_dataset(
            self.train_source,
            transform=self.train_transform,
            batch_size=config.batch_size,
            seed=config.seed,
            num_threads=data.num_threads,
            num_workers=data.num_workers,
            prefetch_examples=data.prefetch_examples,
            max_pixels=data.max_pixels,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def eval_batches(self, source: Source | None = None) -> Iterable[dict]:
        """Returns the finite host batches of this process's part of the evaluation split.

        Args:
          source: other records to see in the same way; None: the evaluation split.
        """
        config, data = self.config, self.config.data
        return eval_dataset(
            source or self.eval_source,
            transform=self.eval_transform,
            batch_size=config.eval_batch_size,
            num_threads=data.num_threads,
            num_workers=data.num_workers,
            prefetch_examples=data.prefetch_examples,
            max_pixels=data.max_pixels,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def corrupt_counter(self, source: Source) -> CorruptCounter:
        """Returns the counter of the images of a source that cannot be decoded."""
        data = self.config.data
        return CorruptCounter(source, data.max_corrupt_fraction, max_pixels=data.max_pixels)

    def put(self, batch: dict) -> dict:
        """Checks a host batch and sends the part that the step needs to the devices."""
        check_batch(batch, num_classes=self.num_classes)
        return put_batch({key: batch[key] for key in ("image", "label", "mask")}, self.mesh)

    def eval_device_batches(self) -> Iterator[dict]:
        """Yields the evaluation batches on the devices, each sent one batch ahead of its use."""
        corrupt = self.corrupt_counter(self.eval_source)
        ahead = None
        for batch in self.eval_batches():
            corrupt.update(batch)
            following = self.put(batch)
            if ahead is not None:
                yield ahead
            ahead = following
        if ahead is not None:
            yield ahead


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
    check_numbers(config)
    check_sizes(config, mesh.size)
    check_sharding_rules(config.sharding_rules)
    if config.task != "classification":
        raise InputError(f"Unknown --config.task '{config.task}'; there is 'classification'.")

    data, augment = config.data, config.augment
    open_split = functools.partial(open_source, data.name, path=data.path, shapes=data.shapes)
    train_source = open_split(data.train_split, image_size=data.image_size)
    eval_source = open_split(
        data.eval_split, image_size=data.image_size, class_names=train_source.class_names
    )

    num_classes = config.model.num_classes or len(train_source.class_names)
    check_classes(num_classes, train_source.class_names)
    try:
        spec = get_spec(config.model.name)
        kwargs = dict(config.model.kwargs)
        check_model_sizes(kwargs, spec.config)
        if "image_size" in {field.name for field in dataclasses.fields(spec.config)}:
            kwargs.setdefault("image_size", data.image_size)
        build = functools.partial(
            _build,
            name=config.model.name,
            num_classes=num_classes,
            dtype=config.model.dtype,
            **kwargs,
        )
        graphdef, params, _ = abstract_model(build)
    except (ValueError, TypeError) as error:  # a name, option or size that the model refuses
        raise InputError(f"config.model: {str(error).splitlines()[0]}") from error

    steps = total_steps(config, len(train_source))
    steps_per_epoch = len(train_source) / config.batch_size
    rate, optimizer = config.schedule, config.optimizer
    schedule = make_schedule(
        rate.name,
        learning_rate=optimizer.learning_rate,
        total_steps=steps,
        warmup_steps=rate.warmup_steps or round(rate.warmup_epochs * steps_per_epoch),
        warmup_convention=rate.warmup_convention,
        end_learning_rate=rate.end_learning_rate,
        step_steps=max(1, round(rate.step_epochs * steps_per_epoch)),
        step_factor=rate.step_factor,
    )
    tx = make_optimizer(
        params,
        name=optimizer.name,
        schedule=schedule,
        weight_decay=optimizer.weight_decay,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
        b1=optimizer.b1,
        b2=optimizer.b2,
        eps=optimizer.eps,
        clip_norm=optimizer.clip_norm,
    )
    return Run(
        config=config,
        total_steps=steps,
        spec=spec,
        build=build,
        graphdef=graphdef,
        mesh=mesh,
        train_source=train_source,
        eval_source=eval_source,
        train_transform=train_transform(
            data.image_size,
            crop=augment.crop,
            crop_scale=augment.crop_scale,
            crop_ratio=augment.crop_ratio,
            crop_padding=augment.crop_padding,
            horizontal_flip=augment.horizontal_flip,
            vertical_flip=augment.vertical_flip,
            color_jitter=augment.color_jitter,
            rand_augment_layers=augment.rand_augment_layers,
            rand_augment_magnitude=augment.rand_augment_magnitude,
            interpolation=data.interpolation,
        ),
        eval_transform=eval_transform(
            data.image_size, eval_resize=data.eval_resize, interpolation=data.interpolation
        ),
        task=Classification(label_smoothing=config.loss.label_smoothing),
        schedule=schedule,
        tx=tx,
    )


def _build(rngs: nnx.Rngs, *, name: str, **kwargs: Any) -> nnx.Module:
    return create_model(name, rngs=rngs, **kwargs)
