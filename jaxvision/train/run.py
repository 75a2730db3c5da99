"""A run that is opened: its data, its model and its optimizer, and the functions made of them."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxvision.batch import ON_DEVICE, check_batch
from jaxvision.data.decode import Decode, decode_image, open_photo
from jaxvision.data.pipeline import CorruptCounter, EvalDataset, eval_dataset, train_dataset
from jaxvision.data.source import Subset
from jaxvision.data.types import Transform
from jaxvision.errors import InputError
from jaxvision.models.spec import ModelSpec
from jaxvision.options.adapter import KINDS as ADAPTER_KINDS
from jaxvision.options.length import Cadence, RunLength
from jaxvision.options.options import Options
from jaxvision.options.size import sides
from jaxvision.tasks.task import Metrics, Task, Weights
from jaxvision.terminal import counted, waiting
from jaxvision.train.augmentation import device_augment
from jaxvision.train.gradients import make_gradient_fn, sharpness_aware
from jaxvision.train.image_sizes import Stages
from jaxvision.train.init_from import fit_to_images, fits_to_images, load_initial
from jaxvision.train.input import PreprocessFn, TrainInput, make_preprocess
from jaxvision.train.mix import mix
from jaxvision.train.optim.freeze import stop_frozen_gradients
from jaxvision.train.optim.param_groups import Groups
from jaxvision.train.optim.weight_average import Average
from jaxvision.train.recalibrate import make_statistics_step, recalibrate
from jaxvision.train.sharding import put_batch, state_shardings
from jaxvision.train.state import TrainState
from jaxvision.train.step import Optimizer, make_eval_step, make_train_step

_FEW = 16
_IMAGES_TO_FIT = 5_000


@dataclasses.dataclass(frozen=True)
class Run:
    """What the options of a run describe, opened and checked; nothing is trained or allocated yet.

    Attributes:
      options: Options that the run was made from.
      length: Length of the run.
      evaluations: When the run is evaluated, apart from its end.
      checkpoints: When it is saved, apart from after evaluations.
      log_lines: When a line of metrics is written, apart from before these.
      task: Task of the run: the meaning of its batches, with the records.
      spec: Table row of the model, see `ModelSpec`.
      build: Function that builds the model from `nnx.Rngs`.
      graphdef: Graph definition of the model.
      mesh: Mesh of the devices, see `make_mesh`.
      image_sizes: Sizes of the training images, ((updates before, size from then on), ...).
      train_transforms: Operations of the host on one training image, for each of `image_sizes`.
      eval_transform: Resize and crop of one evaluation image.
      average: Average of the weights; None: none is kept.
      groups: Group of every parameter, see `assign_groups`: how it is trained.
      optimizer: Optimizer with its schedule.
      abstract_state: Shapes, dtypes and shardings of the state.
    """

    options: Options
    length: RunLength
    evaluations: Cadence
    checkpoints: Cadence
    log_lines: Cadence
    task: Task
    spec: ModelSpec
    build: Callable[[nnx.Rngs], nnx.Module]
    graphdef: nnx.GraphDef
    mesh: jax.sharding.Mesh
    image_sizes: Stages
    train_transforms: tuple[Transform, ...]
    eval_transform: Transform
    average: Average | None
    groups: Groups
    optimizer: Optimizer
    abstract_state: TrainState

    @property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        return self.length.total_steps

    @property
    def train_source(self) -> Any:
        """Random access to the training records."""
        return self.task.data.train_source

    @property
    def eval_source(self) -> Any:
        """Random access to the evaluation records."""
        return self.task.data.eval_source

    @property
    def num_outputs(self) -> int:
        """Outputs of the head: classes, or words of the vocabulary."""
        return self.task.data.num_outputs

    @property
    def preprocess_fn(self) -> PreprocessFn:
        """Function from uint8 images to the model's normalised input, on the device."""
        return make_preprocess(mean=self.spec.preprocess.mean, std=self.spec.preprocess.std)

    @functools.cached_property
    def train_input(self) -> TrainInput:
        """What becomes of a training batch on the devices."""
        augment = self.options.augment
        mixing = functools.partial(
            mix,
            num_classes=self.num_outputs,
            mixup_alpha=augment.mixup_alpha,
            cutmix_alpha=augment.cutmix_alpha,
            mix_probability=augment.mix_probability,
            cutmix_probability=augment.cutmix_probability,
        )
        return TrainInput(
            self.preprocess_fn,
            augment=device_augment(
                augment,
                self.preprocess_fn,
                self.image_sizes[-1][1],
                interpolation=self.options.data.interpolation,
            ),
            mix=mixing if augment.mixes else None,
        )

    @functools.cached_property
    def abstract_constants(self) -> Any:
        """What a step is given beside state and batch, as shapes and shardings; None without."""
        constants = self.task.constants
        if constants is None:
            return None
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            constants,
            state_shardings(constants, mesh=self.mesh),
        )

    def constants(self) -> Any:
        """Returns what a step is given beside state and batch, on the devices; None without."""
        constants = self.task.constants
        if constants is None:
            return None
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_constants)
        return jax.jit(lambda tree: tree, out_shardings=shardings)(constants)

    def initial_weights(self) -> Any:
        """Returns (params, batch_stats) of the files that the options name; None without any.

        A model that fits itself to images starts from what it makes of the training images.

        Raises:
          InputError: if a file cannot be read or does not fit, or adapters have none to change.
        """
        model, preset = self.options.model, self.options.optimizer.preset
        self.task.check_start(model.init_from)
        given = model.init_from or model.encoder_from
        if preset in ADAPTER_KINDS and not given:
            raise InputError(
                f"--config.optimizer.preset={preset} keeps the trunk as it is, and without weights"
                " that is at random: give some as --config.model.init_from."
            )
        if not given and fits_to_images(self.spec.build):
            with waiting("Fitting the model to the training images"):
                return fit_to_images(self.build, self._some_images(), seed=self.options.seed)
        with waiting("Reading the weights to start from") if given else contextlib.nullcontext():
            return load_initial(
                self.build,
                model.init_from,
                encoder_path=model.encoder_from,
                adapter_path=model.adapter_from,
                part=model.init_part or None,
                image_size=model.init_image_size or None,
                complete=self.task.start_from,
                seed=self.options.seed,
            )

    def _some_images(self) -> np.ndarray:
        """Returns every n-th training image, normalised; the same ones in all processes."""
        length = len(self.train_source)
        records = range(0, length, -(-length // _IMAGES_TO_FIT))
        dataset = eval_dataset(
            Subset(self.train_source, records),
            transform=self.eval_transform,
            target=self.task.data.target,
            batch_size=min(len(records), 256),
            num_threads=self.options.data.num_threads,
            decode=self.decode,
        )
        images = np.concatenate([batch["image"][batch["mask"]] for batch in dataset])
        return np.asarray(jax.device_get(self.preprocess_fn(jax.numpy.asarray(images))))

    @functools.cached_property
    def batch_shapes(self) -> dict[str, np.ndarray]:
        """One example of what goes to the devices: shapes and dtypes of a batch."""
        few = range(min(len(self.eval_source), _FEW))  # the first may be corrupt
        batch = next(iter(self.eval_batches(self.task.eval_subset(few))))
        return {key: batch[key][:1] for key in ON_DEVICE if key in batch}

    def train_step(self) -> Callable[..., tuple[TrainState, dict]]:
        """Returns the jitted training step."""
        gradient_fn = make_gradient_fn(
            self.graphdef,
            self.task,
            stop_frozen=stop_frozen_gradients(self.groups),
            accumulate_steps=self.options.accumulate_steps,
        )
        optimizer = self.options.optimizer
        if optimizer.sam_rho:
            gradient_fn = sharpness_aware(
                gradient_fn, rho=optimizer.sam_rho, adaptive=optimizer.sam_adaptive
            )
        return make_train_step(
            self.train_input,
            gradient_fn,
            self.optimizer,
            average=self.average,
            shardings=jax.tree.map(lambda x: x.sharding, self.abstract_state),
        )

    def eval_step(self) -> Callable[[Any, Any, dict], dict]:
        """Returns the jitted evaluation step."""
        return make_eval_step(self.graphdef, self.task, preprocess_fn=self.preprocess_fn)

    def evaluator(self) -> Callable[[dict[str, Weights]], Metrics]:
        """Returns the function from sets of weights to the metrics of the evaluation split."""
        return self.task.evaluator(self)

    def weights_of(self, state: TrainState) -> dict[str, Weights]:
        """Returns the sets of weights to evaluate: the raw ones, and the averaged ones if kept."""
        weights = {"eval": (state.params, state.batch_stats)}
        if self.average is not None:
            weights[self.average.name] = (state.ema_params, state.ema_batch_stats)
        return weights

    def recalibrator(self, num_batches: int) -> Callable[[Any, Any], Any]:
        """Returns the function (params, batch_stats) -> statistics of the first training batches.

        The images are augmented as in training and have the last size of a timetable, but are not
        mixed.
        """
        step = make_statistics_step(
            self.graphdef,
            self.task,
            prepare=dataclasses.replace(self.train_input, mix=None),
            seed=self.options.seed,
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
          last_size: Whether all images have the last size of a timetable, from the first batch on.
        """
        options, data = self.options, self.options.data
        stages = list(zip(self.image_sizes, self.train_transforms, strict=True))
        (_, transform), *later = stages[-1:] if last_size else stages
        return train_dataset(
            self.train_source,
            transform=transform,
            later_transforms=[(steps * options.batch_size, then) for (steps, _), then in later],
            target=self.task.data.target,
            batch_size=options.batch_size,
            seed=options.seed,
            repeats=options.augment.repeats,
            sampling=self.task.data.sampling,
            alternating_flip=options.augment.alternating_flip,
            num_threads=data.num_threads,
            num_workers=data.num_workers,
            prefetch_examples=data.prefetch_examples,
            decode=self.train_decode,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def eval_batches(self, source: Any = None, transform: Transform | None = None) -> EvalDataset:
        """Returns the finite host batches of this process's part of the evaluation split.

        Args:
          source: Source of other records, prepared in the same way; None: the evaluation split.
          transform: Resize and crop of one image; None: those of the run.
        """
        options, data = self.options, self.options.data
        return eval_dataset(
            source or self.eval_source,
            transform=transform or self.eval_transform,
            target=self.task.data.target,
            batch_size=options.eval_batch_size,
            num_threads=data.num_threads,
            num_workers=data.num_workers,
            prefetch_examples=data.prefetch_examples,
            decode=self.decode,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    @property
    def decode(self) -> functools.partial:
        """Function from the bytes of an image to its pixels."""
        data = self.options.data
        return functools.partial(
            decode_image, max_pixels=data.max_pixels, exif_orientation=data.exif_orientation
        )

    @property
    def train_decode(self) -> Decode:
        """Function from the bytes of a training image to its pixels, or to a `Photo`."""
        if not self.options.data.reduced_decoding:
            return self.decode
        # Of a smaller image no part is twice as large as the output; the smallest are kept in
        # memory, decoded.
        large = max(128, 2 * min(min(sides(size)) for _, size in self.image_sizes))
        return functools.partial(open_photo, large=large, **self.decode.keywords)

    def corrupt_counter(self, source: Any) -> CorruptCounter:
        """Returns the counter of the images of a source that cannot be decoded."""
        fraction = self.options.data.max_corrupt_fraction
        return CorruptCounter(source, fraction, decode=self.decode)

    def put(self, batch: dict) -> dict:
        """Checks a host batch and sends the part that the step needs to the devices."""
        check_batch(batch, num_classes=self.num_outputs)
        return put_batch({key: batch[key] for key in ON_DEVICE if key in batch}, self.mesh)

    def eval_device_batches(self) -> Iterator[dict]:
        """Yields the evaluation batches on the devices, each sent one batch ahead of its use."""
        corrupt = self.corrupt_counter(self.eval_source)
        ahead = None
        batches = self.eval_batches()
        for batch in counted(batches, len(batches), "Evaluating"):
            corrupt.update(batch)
            following = self.put(batch)
            if ahead is not None:
                yield ahead
            ahead = following
        if ahead is not None:
            yield ahead
