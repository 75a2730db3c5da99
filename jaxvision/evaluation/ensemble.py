"""Other models that are evaluated beside a run, and the mean of their probabilities."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float

from jaxvision.data.classes import class_difference, class_order
from jaxvision.data.types import Transform
from jaxvision.errors import InputError
from jaxvision.interop.describe import describe_weights
from jaxvision.interop.fill import fill_weights
from jaxvision.interop.run_folder import is_run
from jaxvision.interop.trained import open_trained, weights_transform
from jaxvision.metrics.calibration import probabilities
from jaxvision.models.image_model import remove_training_parts
from jaxvision.train.input import make_preprocess
from jaxvision.train.run import Run


@dataclasses.dataclass(frozen=True)
class Member:
    """A model whose weights are on all devices.

    Attributes:
      name: Path that the model was opened by.
      graphdef: Graph definition of the model.
      weights: Weights of the model, (params, batch_stats).
      preprocess_fn: Function from uint8 images to normalised images, on the device.
      transform: Resize and crop of an image in an evaluation, to uint8.
      order: Member's output for each class of the run; None: the same order.
    """

    name: str
    graphdef: nnx.GraphDef
    weights: tuple[Any, Any]
    preprocess_fn: Callable
    transform: Transform
    order: tuple[int, ...] | None = None


def open_member(path: str, run: Run, class_names: tuple[str, ...]) -> Member:
    """Returns another run, or weights of this one's model, seen with their own preprocessing.

    Args:
      path: Folder of a run of any model; or file or tag of weights of the model of `run`, prepared
        for as the run does unless they tell how.
      run: Run that is evaluated.
      class_names: Names of the run's classes, by label.

    Raises:
      InputError: if it cannot be read, or knows other classes.
    """
    order, its_names = None, ()
    if is_run(path):
        trained = open_trained(path)
        model, spec, transform = trained.model, trained.spec, trained.transform
        if spec.task != "classification":
            raise InputError(f"{path} of config.eval.ensemble is a run for {spec.task}.")
        if trained.thresholds is not None:
            raise InputError(f"{path} of config.eval.ensemble is a run for multi_label.")
        its_names = trained.class_names
    else:
        model = nnx.eval_shape(lambda: run.build(nnx.Rngs(0)))
        remove_training_parts(model)
        fill_weights(model, path)
        spec, transform = run.spec, run.eval_transform
        known = describe_weights(path)
        if known is not None and len(known.class_names) == run.num_outputs:
            its_names = known.class_names
        if known is not None and known.preprocess is not None:
            spec = dataclasses.replace(spec, preprocess=known.preprocess)
            transform = weights_transform(spec, run.options.data.image_size)
    if its_names and its_names != class_names:
        order = class_order(its_names, class_names)
        if order is None:
            raise InputError(
                f"{path} of config.eval.ensemble has other classes than this run: it "
                f"{class_difference(its_names, class_names)}; give models of the same data."
            )
        order = (*order, *range(len(order), run.num_outputs))
    classes: int = model.config.num_classes  # pyright: ignore - every image model has a config
    if classes != run.num_outputs:
        raise InputError(
            f"{path} of config.eval.ensemble has {classes} classes, this run {run.num_outputs}; "
            "give models of the same classes."
        )
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    weights = jax.device_get((nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)))
    return Member(
        path,
        graphdef,
        jax.device_put(weights, NamedSharding(run.mesh, PartitionSpec())),
        make_preprocess(mean=spec.preprocess.mean, std=spec.preprocess.std),
        transform,
        order,
    )


def mean_logits(
    logits: Sequence[Float[np.ndarray, "examples classes"]],
) -> Float[np.ndarray, "examples classes"]:
    """Returns the logarithm of the mean of the models' probabilities.

    Source: Lakshminarayanan et al. 2017, Simple and Scalable Predictive Uncertainty Estimation
    using Deep Ensembles, section 2.4.
    """
    mean = sum(probabilities(each) for each in logits) / len(logits)
    return np.log(np.maximum(mean, np.finfo(np.float64).tiny))
