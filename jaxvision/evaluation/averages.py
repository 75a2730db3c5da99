"""The mean of the last checkpoints of a run, with running statistics of its own."""

import pathlib

import jax
import numpy as np
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.evaluation.soup import mean_weights
from jaxvision.interop.assign import assign_weights
from jaxvision.interop.rules import Weights, flatten
from jaxvision.interop.run_folder import check_stored_models, open_run, read_run, run_image_size
from jaxvision.options.adapter import KINDS as ADAPTER_KINDS
from jaxvision.options.options import read_options
from jaxvision.tasks.registry import check_stored_task
from jaxvision.train.setup import make_run


def average_checkpoints(path: str | pathlib.Path, *, last: int) -> tuple[Weights, tuple[int, ...]]:
    """Returns the mean of each weight over the last checkpoints of a run, and their steps.

    Of a run that keeps averaged weights it is the mean of those. Running statistics are averaged as
    well, which is only near to what the new weights want: see `recalibrate_weights`.

    Args:
      path: Folder of the run.
      last: Number of checkpoints to average, the newest ones.

    Raises:
      InputError: if there are fewer, or one cannot be read.

    Source: Vaswani et al. 2017, Attention Is All You Need, section 6.1.
    """
    run = open_run(path)
    if len(run.steps) < last:
        raise InputError(
            f"{path} holds {len(run.steps)} checkpoints, {last} are wanted: give --last="
            f"{max(len(run.steps), 1)}, or train with --config.checkpoint.keep={last}."
        )
    steps = run.steps[:last]
    folders = (run.folder / "checkpoints" / str(step) for step in steps)
    mean = mean_weights(read_run(folder)[0] for folder in folders)
    return mean, tuple(sorted(steps))


def recalibrate_weights(path: str | pathlib.Path, weights: Weights, *, batches: int) -> Weights:
    """Returns weights with the running statistics that training batches of a run give them.

    Args:
      path: Folder of the run, whose data must be where it was.
      weights: Weights of the run's model, by our paths.
      batches: Number of training batches, the first ones of the run.

    Raises:
      InputError: if the run cannot be opened.
    """
    folder = open_run(path)
    stored = folder.config
    check_stored_models(stored, where=str(path))
    check_stored_task(stored["task"], where=str(path))
    # One device or all of this machine: the mesh of the training need not be here.
    changes = {"mesh": stored["mesh"] | {"data": -1, "fsdp": 1}}
    if stored["optimizer"]["preset"] in ADAPTER_KINDS:  # they are merged, and the trunk is frozen
        fields = {"preset": "head", "rules": (), "unfreeze": ()}
        changes["optimizer"] = stored["optimizer"] | fields
    options = read_options(stored | changes)
    run = make_run(options, workdir=path)
    model = nnx.eval_shape(lambda: run.build(nnx.Rngs(0)))
    assign_weights(model, weights, image_size=run_image_size(folder))
    trees = (nnx.to_pure_dict(x) for x in nnx.split(model, nnx.Param, nnx.BatchStat)[1:])
    abstract = (run.abstract_state.params, run.abstract_state.batch_stats)
    placed = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), tuple(trees), abstract)
    found = run.recalibrator(batches)(*placed)
    return weights | {name: np.asarray(x) for name, x in flatten(found).items()}
