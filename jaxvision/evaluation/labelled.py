"""Labelled images for a trained model outside of a run, and what the model gives for them."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxvision.data.pipeline import CorruptCounter, eval_dataset
from jaxvision.data.source import Source
from jaxvision.data.sources.open_source import open_both
from jaxvision.data.types import Transform
from jaxvision.errors import InputError
from jaxvision.evaluation.outputs import collect_outputs, make_views_step
from jaxvision.interop.run_folder import is_run, open_run
from jaxvision.interop.trained import Trained
from jaxvision.metrics.outputs import Outputs
from jaxvision.train.input import make_preprocess
from jaxvision.train.sharding import make_mesh

MAX_CORRUPT = 0.01  # of the images, as config.data.max_corrupt_fraction


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Where labelled images are; None: what the run says, or the default.

    Attributes:
      name: Name of the data, as config.data.name.
      path: Folder, zip or file that holds the data, as config.data.path.
      train_split: Name of the training split, as config.data.train_split.
      eval_split: Name of the evaluation split, as config.data.eval_split.
    """

    name: str | None = None
    path: str | None = None
    train_split: str | None = None
    eval_split: str | None = None


def open_splits(options: DataOptions, weights: str, *, image_size: Any) -> tuple[Source, Source]:
    """Returns the training and the evaluation split.

    Args:
      options: Data that were asked for.
      weights: Folder of a run, whose config fills in the rest unless `options` has a name; or a
        file of weights.
      image_size: Size of the images in pixels, one side or (height, width); only `shapes` is drawn
        at it.

    Raises:
      InputError: if nobody says which data, or they are missing.
    """
    train, evaluation = open_both(**_known(options, weights, image_size))
    assert train is not None  # as it is wanted
    return train, evaluation


def open_eval_split(
    options: DataOptions, weights: str, *, image_size: Any, class_names: tuple[str, ...]
) -> Source:
    """Returns the evaluation split, with the labels of a model.

    Args:
      options: Data that was asked for.
      weights: Folder of a run, whose config fills in what was not; or a file.
      image_size: Size of the images in pixels, of data that are drawn.
      class_names: Class names of the model, by label; empty: those of the training split.

    Raises:
      InputError: if nobody says which data, they are missing, or they have other classes.
    """
    if not class_names:
        return open_splits(options, weights, image_size=image_size)[1]
    known = _known(options, weights, image_size)
    return open_both(**known, class_names=class_names, training=False)[1]


def _known(options: DataOptions, weights: str, image_size: Any) -> dict[str, Any]:
    """Returns where the data is, as `open_both` takes it."""
    known: dict[str, Any] = {"path": "", "train_split": "train", "eval_split": "test"}
    if options.name is not None:
        known["name"] = options.name
    elif is_run(weights):
        known = open_run(weights).config["data"]
    else:
        raise InputError(f"{weights} does not say on which data: give --data=NAME --path=FOLDER.")
    known = known | {k: v for k, v in dataclasses.asdict(options).items() if v is not None}
    names = ["name", "path", "train_split", "eval_split", "shapes"]
    names += ["image_column", "label_column"] * known["name"].startswith("hf:")
    return {name: known[name] for name in names if name in known} | {"image_size": image_size}


class Runner:
    """Runs a model over the images of a source, on all devices, compiled once.

    Args:
      trained: Model and its preprocessing; a call can be given the model in another state.
      batch_size: Number of images that are computed at once, rounded up to a multiple of the
        devices.
    """

    def __init__(self, trained: Trained, *, batch_size: int):
        self._mesh = make_mesh()
        self._batch_size = -(-batch_size // self._mesh.size) * self._mesh.size
        self._transform: Transform = trained.transform
        pixels = trained.spec.preprocess
        graphdef, *_ = nnx.split(trained.model, nnx.Param, nnx.BatchStat)
        self._step = make_views_step(
            graphdef, preprocess_fn=make_preprocess(mean=pixels.mean, std=pixels.std)
        )

    def __call__(self, model: nnx.Module, source: Source) -> Outputs:
        """Returns what a model of the same structure gives for every image of a source.

        Raises:
          DataError: if more than a hundredth of the images are corrupt.
        """
        _, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
        trees = jax.device_get(tuple(map(nnx.to_pure_dict, states)))
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        params, batch_stats = jax.device_put(trees, everywhere)
        corrupt = CorruptCounter(source, MAX_CORRUPT)

        def batches() -> Iterator[dict]:
            dataset = eval_dataset(source, transform=self._transform, batch_size=self._batch_size)
            for batch in dataset:
                corrupt.update(batch)
                yield batch

        return collect_outputs(
            lambda images: self._step(params, batch_stats, images), batches(), self._mesh
        )


def accuracy(outputs: Outputs) -> float:
    """Returns the share of the images whose greatest logit is that of their class."""
    return float(np.mean(np.argmax(outputs.values, axis=-1) == outputs.labels))
