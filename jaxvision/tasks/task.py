"""What a task is: the meaning of a batch, from the records to the pictures of a finished run.

A new task is one file: a class that derives from `Task`, beside these or outside the package, as
`--config.task=mypackage.mytask:MyTask`.
"""

import abc
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxvision.data.sampling import ClassSampling
from jaxvision.data.source import Subset
from jaxvision.data.target import Target
from jaxvision.errors import InputError
from jaxvision.options.options import Options
from jaxvision.tasks.sums import evaluate_sums

Build = Callable[[nnx.Rngs], nnx.Module]
Weights = tuple[Any, Any]  # (params, batch_stats)
Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class TaskData:
    """The records of a run, and what follows from them for the model.

    Attributes:
      train_source: Random access to the training records; empty where they are not needed.
      eval_source: Random access to the evaluation records.
      num_outputs: Number of outputs of the model's head.
      model_options: Further fields of the model's config that follow from the data.
      target: Target that gives what an example has beside its image; None: a label.
      has_images: Whether an example has an image, not the features of one.
      views: Number of views of its image that a training example stacks, one below the other.
      sampling: Sampling of the training records, as config.data.sampling asks; None: each comes
        once in a pass, which is all that the task can do.
    """

    train_source: Any = ()
    eval_source: Any = ()
    num_outputs: int = 0
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    target: Target | None = None
    has_images: bool = True
    views: int = 1
    sampling: ClassSampling | None = None


@runtime_checkable
class OpenRun(Protocol):
    """What a task sees of the run that it belongs to, see `train.run.Run`."""

    @property
    def graphdef(self) -> nnx.GraphDef:
        """Graph definition of the model."""
        ...

    @property
    def preprocess_fn(self) -> Callable[[jax.Array], jax.Array]:
        """Function from uint8 images to normalised images."""
        ...

    def eval_step(self) -> Callable[[Any, Any, dict], dict]:
        """Returns the jitted function (params, batch_stats, batch) -> {metric: (sum, count)}."""
        ...

    def eval_batches(self, source: Any = None) -> Iterable[dict]:
        """Returns the host batches of the evaluation split, or of another source."""
        ...

    def eval_device_batches(self) -> Iterator[dict]:
        """Yields the evaluation batches on the devices."""
        ...

    def put(self, batch: dict) -> dict:
        """Returns a host batch on the devices."""
        ...


class Task(abc.ABC):
    """The meaning of a batch. Only `open`, `loss` and `evaluate` must be written.

    Attributes:
      name: Name of the task.
      model_task: Name of the task as `ModelSpec.task` of the models for it says; "": as above.
      metrics: Names, without prefix, of the metrics of an evaluation; checkpoints are compared by
        one of them.
      data: Records of the run; empty where a task is used without any.
    """

    name: ClassVar[str]
    model_task: ClassVar[str] = ""
    metrics: ClassVar[tuple[str, ...]]
    data: TaskData

    @classmethod
    @abc.abstractmethod
    def open(cls, options: Options) -> "Task":
        """Opens the data of a run.

        Args:
          options: Options of the run.

        Raises:
          InputError: if the data is missing, or an option does not fit this task.
        """

    @classmethod
    def reopen(cls, options: Options, workdir: pathlib.Path, *, training: bool) -> "Task":
        """Opens the data of a run that a folder holds; here, as that of a new one.

        Args:
          options: Options of the run.
          workdir: Folder of the run, with what `keep` wrote.
          training: Whether the training records are needed; an evaluation can do without.

        Raises:
          InputError: if the data is missing, or means something else than the run has learned.
        """
        del workdir, training
        return cls.open(options)

    @property
    def constants(self) -> Any:
        """What `loss` is given at each step beside state and batch, on the host; None: nothing."""
        return None

    def fit_model(self, build: Build, options: Options) -> tuple["Task", Build]:
        """Returns the task and the function that builds the model, once both are known.

        Args:
          build: Function that builds the model from `nnx.Rngs`.
          options: Options of the run.
        """
        del options
        return self, build

    def prepare(self, batch: dict) -> dict:
        """Returns a training batch with what its loss needs; here, as it is.

        It sees the whole batch, before it is split into micro-batches.
        """
        return batch

    @abc.abstractmethod
    def loss(self, model: Any, batch: dict, *, rngs: nnx.Rngs) -> tuple[jax.Array, dict]:
        """Returns the mean loss of a training batch and its scalar metrics.

        A task with constants takes them as `constants=`.

        Args:
          model: Model in the middle of a step.
          batch: Batch that `prepare` returned, with normalised images.
          rngs: Source of dropout.
        """

    @abc.abstractmethod
    def evaluate(self, model: Any, batch: dict) -> dict:
        """Returns {metric: (sum, count)} over the valid examples of a batch.

        Args:
          model: Model in evaluation.
          batch: Batch with normalised images; `mask` is False where an example only fills it.
        """

    def metric_names(self) -> tuple[str, ...]:
        """Returns the names, without prefix, of the metrics of this task's evaluations."""
        return self.metrics

    def evaluator(self, run: OpenRun) -> Callable[[dict[str, Weights]], Metrics]:
        """Returns the function from sets of weights to the metrics of the evaluation split.

        Args:
          run: Run that is evaluated.
        """
        step = run.eval_step()
        return lambda weights: evaluate_sums(step, weights, run.eval_device_batches())

    def start_from(self, model: Any, path: str) -> None:
        """Completes a new model whose own weights were read from a file or from another run.

        Args:
          model: Model that the run starts from, changed in place.
          path: Value of config.model.init_from.
        """
        del model, path

    def check_start(self, path: str) -> None:
        """Checks that a new run may start from the weights of a file or of another run.

        Args:
          path: Value of config.model.init_from.
        """
        del path

    def check_kept(self, workdir: pathlib.Path) -> None:
        """Checks that what a run has kept, by `keep`, is what this task would keep.

        Args:
          workdir: Folder of the run.

        Raises:
          InputError: if it is another run's.
        """
        del workdir

    def keep(self, workdir: pathlib.Path, *, resumes: bool) -> None:
        """Writes down what the run's weights cannot be used without, or checks that it is the same.

        Args:
          workdir: Folder of the run.
          resumes: Whether the folder holds a run that is resumed.

        Raises:
          InputError: if it is another run's.
        """
        del workdir, resumes

    def eval_subset(self, indices: Sequence[int]) -> Any:
        """Returns some records of the evaluation split, for a quick look."""
        return Subset(self.data.eval_source, indices)

    def shown(self, batch: dict) -> jax.Array:
        """Returns the array [batch, ...] that `titles` makes words of; traced.

        Args:
          batch: Training batch on the devices, mixed if the run mixes.
        """
        return jnp.zeros((len(batch["mask"]), 0))

    def titles(self, shown: np.ndarray) -> list[str]:
        """Returns what stands above each training image in a preview.

        Args:
          shown: Array [batch, ...] of `shown`, on the host.
        """
        return [""] * len(shown)

    def draw(self, run: OpenRun, weights: Weights, workdir: pathlib.Path) -> str | None:
        """Draws what trained weights make of some evaluation images; every process takes part.

        Args:
          run: Run that has ended.
          weights: Weights of the model, (params, batch_stats).
          workdir: Folder for the picture.

        Returns:
          The picture's name; None: there is none.
        """
        del run, weights, workdir
        return None


def check_plain_evaluation(options: Options) -> None:
    """Checks that an evaluation is not asked for what only that of one label an image has.

    Args:
      options: Options of the run.

    Raises:
      InputError: naming the options.
    """
    evaluation = options.eval
    if evaluation.tta != "none" or evaluation.ensemble or evaluation.real_labels:
        raise InputError(
            "--config.eval.tta, .ensemble and .real_labels are for --config.task=classification, "
            f"got '{options.task}': leave them out."
        )


def check_contrast(options: Options) -> None:
    """Checks that a batch holds others to tell an example from: alone it has a loss of 0.

    Args:
      options: Options of the run.

    Raises:
      InputError: naming the option.
    """
    if options.batch_size < 2:
        raise InputError(
            f"--config.task={options.task} tells each image from the others of a batch, but "
            f"--config.batch_size={options.batch_size}: give 2 or more."
        )


def drawn(size: int, count: int) -> list[int]:
    """Returns indices drawn by chance, the same each time, as records may come in any order."""
    chosen = np.random.default_rng(0).choice(size, min(size, count), replace=False)
    return np.sort(chosen).tolist()


def spread(size: int, count: int) -> list[int]:
    """Returns indices evenly spaced from the first to the last, as folders come class by class."""
    return np.linspace(0, size - 1, min(size, count)).round().astype(int).tolist()
