"""What a config describes, opened: the functions and batches of a run."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from jaxvision.batch import ON_DEVICE, check_batch
from jaxvision.data.pipeline import CorruptCounter, eval_dataset, train_dataset
from jaxvision.data.types import Transform
from jaxvision.decode.decoder import Decoded
from jaxvision.decode.settings import DecodeSettings
from jaxvision.models.registry import ModelSpec
from jaxvision.train.augmentation import device_augment
from jaxvision.train.caption_evaluation import evaluate_captions, make_caption_step
from jaxvision.train.evaluate import evaluate
from jaxvision.train.image_sizes import Stages
from jaxvision.train.init_from import load_initial
from jaxvision.train.mix import mix
from jaxvision.train.optim.freeze import stop_frozen_gradients
from jaxvision.train.optim.param_groups import Groups
from jaxvision.train.optim.weight_average import Swa
from jaxvision.train.recalibrate import make_statistics_step, recalibrate
from jaxvision.train.sharding import put_batch, state_shardings
from jaxvision.train.state import TrainState, abstract_state
from jaxvision.train.step import make_eval_step, make_preprocess, make_train_step
from jaxvision.train.task_data import TaskData
from jaxvision.train.workdir import Config

_FEW = 16


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
      data: the records, and what the task needs beside them.
      image_sizes: of the training images, ((updates before, size from then on), ...).
      train_transforms: what the host does with one training image, at each of these sizes.
      eval_transform: resize and crop of one evaluation image.
      schedule: learning rate of each update.
      swa: stochastic averaging of the weights, or None.
      groups: how each parameter is trained.
      tx: the optimizer.
    """

    config: Config
    total_steps: int
    spec: ModelSpec
    build: Callable[[nnx.Rngs], nnx.Module]
    graphdef: nnx.GraphDef
    mesh: jax.sharding.Mesh
    data: TaskData
    image_sizes: Stages
    train_transforms: tuple[Transform, ...]
    eval_transform: Transform
    schedule: optax.Schedule
    swa: Swa | None
    groups: Groups
    tx: optax.GradientTransformation

    @property
    def train_source(self) -> Any:
        """Random access to the training records."""
        return self.data.train_source

    @property
    def eval_source(self) -> Any:
        """Random access to the evaluation records."""
        return self.data.eval_source

    @property
    def num_classes(self) -> int:
        """Outputs of the head: classes, or words of the vocabulary."""
        return self.data.num_outputs

    @property
    def preprocess_fn(self) -> Callable[[jax.Array], jax.Array]:
        """Uint8 images to the model's normalised input, on the device."""
        return make_preprocess(mean=self.spec.preprocess.mean, std=self.spec.preprocess.std)

    @property
    def augment(self) -> Callable | None:
        """(key, uint8 images) -> normalised images, or None where all is done on the host."""
        return device_augment(self.config, self.preprocess_fn)

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
            ema=self.config.ema_decay > 0 or self.swa is not None,
            loss_scale=self.config.model.dtype == "float16",
        )

    @functools.cached_property
    def abstract_constants(self) -> Any:
        """What a step is given beside state and batch, as shapes and shardings; None without."""
        if self.data.teacher is None:
            return None
        weights = self.data.teacher.weights
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            weights,
            state_shardings(weights, mesh=self.mesh),
        )

    def constants(self) -> Any:
        """Returns what a step is given beside state and batch, on the devices; None without."""
        if self.data.teacher is None:
            return None
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_constants)
        return jax.jit(lambda tree: tree, out_shardings=shardings)(self.data.teacher.weights)

    def initial_weights(self) -> Any:
        """Returns (params, batch_stats) of the files that the config names; None without any."""
        model = self.config.model
        return load_initial(
            self.build,
            model.init_from,
            encoder_path=model.encoder_from,
            seed=self.config.seed,
        )

    @functools.cached_property
    def batch_shapes(self) -> dict[str, np.ndarray]:
        """One example of what goes to the devices: shapes and dtypes of a batch."""
        few = range(min(len(self.eval_source), _FEW))  # the first may be corrupt
        batch = next(iter(self.eval_batches(self.data.eval_subset(few))))
        return {key: batch[key][:1] for key in ON_DEVICE if key in batch}

    def train_step(self) -> Callable:
        """Returns the jitted training step."""
        return make_train_step(
            self.graphdef,
            self.data.task,
            self.tx,
            schedule=self.schedule,
            stop_frozen=stop_frozen_gradients(self.groups),
            preprocess_fn=self.preprocess_fn,
            augment=self.augment,
            mix=self.mix,
            ema_decay=self.config.ema_decay,
            ema_warmup=self.config.ema_warmup,
            swa=self.swa,
            accumulate_steps=self.config.accumulate_steps,
            shardings=jax.tree.map(lambda x: x.sharding, self.abstract_state),
        )

    def eval_step(self) -> Callable:
        """Returns the jitted evaluation step."""
        return make_eval_step(self.graphdef, self.data.task, preprocess_fn=self.preprocess_fn)

    def evaluator(self) -> Callable[[dict[str, Any]], dict[str, float]]:
        """Returns the function from sets of weights to the metrics of the evaluation split."""
        eval_step = self.eval_step()
        if self.data.captions is None:
            return lambda weights: evaluate(eval_step, weights, self.eval_device_batches())
        caption_step = self.caption_step(self.data.captions.settings)
        return lambda weights: evaluate_captions(
            eval_step, caption_step, weights, self.eval_device_batches(), self.data
        )

    def caption_step(self, settings: DecodeSettings) -> Callable[[Any, Any, dict], Decoded]:
        """Returns the jitted function (params, batch_stats, batch) -> captions."""
        return make_caption_step(self.graphdef, settings, preprocess_fn=self.preprocess_fn)

    def recalibrator(self, num_batches: int) -> Callable[[Any, Any], Any]:
        """Returns the function (params, batch_stats) -> statistics of the first training batches.

        The images are augmented as in training and have the last size of a timetable, but are not
        mixed.
        """
        step = make_statistics_step(
            self.graphdef,
            self.data.task,
            preprocess_fn=self.augment or (lambda _, images: self.preprocess_fn(images)),
            seed=self.config.seed,
            shardings=jax.tree.map(lambda x: x.sharding, self.abstract_state.batch_stats),
        )

        def recalibrated(params: Any, batch_stats: Any) -> Any:
            with contextlib.closing(self.train_batches(last_size=True)) as batches:
                first = itertools.islice(batches, num_batches)
                on_devices = (self.put(batch) for batch in first)
                return recalibrate(
                    step, params, batch_stats, on_devices, constants=self.constants()
                )

        return recalibrated

    def train_batches(self, *, last_size: bool = False) -> Any:
        """Returns the endless host iterator over this process's part of the training batches.

        Args:
          last_size: give all images the last size of a timetable, from the first batch on.
        """
        config, data = self.config, self.config.data
        stages = list(zip(self.image_sizes, self.train_transforms, strict=True))
        (_, transform), *later = stages[-1:] if last_size else stages
        return train_dataset(
            self.train_source,
            transform=transform,
            later_transforms=[(steps * config.batch_size, then) for (steps, _), then in later],
            target=self.data.target,
            batch_size=config.batch_size,
            seed=config.seed,
            repeats=config.augment.repeats,
            num_threads=data.num_threads,
            num_workers=data.num_workers,
            prefetch_examples=data.prefetch_examples,
            max_pixels=data.max_pixels,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def eval_batches(
        self, source: Any = None, transform: Transform | None = None
    ) -> Iterable[dict]:
        """Returns the finite host batches of this process's part of the evaluation split.

        Args:
          source: other records to see in the same way; None: the evaluation split.
          transform: another resize and crop; None: that of the run.
        """
        config, data = self.config, self.config.data
        return eval_dataset(
            source or self.eval_source,
            transform=transform or self.eval_transform,
            target=self.data.target,
            batch_size=config.eval_batch_size,
            num_threads=data.num_threads,
            num_workers=data.num_workers,
            prefetch_examples=data.prefetch_examples,
            max_pixels=data.max_pixels,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def corrupt_counter(self, source: Any) -> CorruptCounter:
        """Returns the counter of the images of a source that cannot be decoded."""
        data = self.config.data
        return CorruptCounter(source, data.max_corrupt_fraction, max_pixels=data.max_pixels)

    def put(self, batch: dict) -> dict:
        """Checks a host batch and sends the part that the step needs to the devices."""
        check_batch(batch, num_classes=self.num_classes)
        return put_batch({key: batch[key] for key in ON_DEVICE if key in batch}, self.mesh)

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
