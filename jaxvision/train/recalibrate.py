"""Running statistics of BatchNorms, computed anew for weights that were never trained with."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxvision.layers.norm import BatchNorm
from jaxvision.tasks.task import Task
from jaxvision.train.input import TrainInput


def make_statistics_step(
    graphdef: nnx.GraphDef, task: Task, *, prepare: TrainInput, seed: int, shardings: Any = None
) -> Callable[..., Any]:
    """Returns the jitted function (params, batch_stats, batch, seen, constants=None).

    It returns the mean of the statistics of `seen` batches before, and of this one.

    Args:
      graphdef: Graph definition of the model.
      task: Task whose loss runs the model; the loss itself is not computed.
      prepare: Function (batch, key) -> batch as the task reads it.
      seed: Seed of dropout and augmentation.
      shardings: Shardings of the statistics.
    """

    def step(
        params: Any, batch_stats: Any, batch: dict, seen: jax.Array, constants: Any = None
    ) -> Any:
        key = jax.random.fold_in(jax.random.key(seed), seen)
        batch = prepare(batch, key)
        model = nnx.merge(graphdef, params, batch_stats, copy=True)
        for _, module in nnx.iter_modules(model):
            if isinstance(module, BatchNorm):
                batch_norm: Any = module  # its momentum is a plain number otherwise
                batch_norm.momentum = 1.0 / (seen + 1.0)
        extra = {} if constants is None else {"constants": constants}
        task.loss(model, task.prepare(batch), rngs=nnx.Rngs(dropout=key), **extra)
        return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return jax.jit(step, out_shardings=shardings)


def recalibrate(
    step: Callable[..., Any],
    params: Any,
    batch_stats: Any,
    batches: Iterable[dict],
    *,
    constants: Any = None,
) -> Any:
    """Returns the running statistics that belong to some weights.

    Each is the mean over the batches of what a BatchNorm sees there in training, dropout included;
    those of frozen BatchNorms stay as they are. Which statistics are given makes no difference.

    Args:
      step: Function of `make_statistics_step`.
      params: Parameters of the model, the weights that the statistics are for.
      batch_stats: Nested dict of BatchNorm statistics; without any, nothing is done.
      batches: Training batches on the devices.
      constants: Constants of the task; None: it has none.

    Note: as torch.optim.swa_utils.update_bn, which resets the statistics and sets momentum=None.
    """
    if not jax.tree.leaves(batch_stats):
        return batch_stats
    for seen, batch in enumerate(batches):
        batch_stats = step(params, batch_stats, batch, np.int32(seen), constants)
    return batch_stats
