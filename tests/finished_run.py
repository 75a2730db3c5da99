"""Leaves a folder like that of a finished run, without training: a ViT on the built-in shapes."""

import jax
from opening import make_run

from configs import smoke
from jaxvision.train.checkpoint import Checkpointer
from jaxvision.train.state import create_state
from jaxvision.train.workdir import open_workdir

VIT = {"width": 16, "depth": 2, "num_heads": 2, "patch_size": 8}


def write(folder, *, steps=(3,), name="vit_ti16", options=VIT, trained=None, **changes):
    """Writes the run; returns (run, state): the averaged weights are 1.5 times the others.

    Args:
      folder: The folder.
      steps: The steps of its checkpoints.
      name: The model.
      options: Its options.
      trained: Function from the initial parameters to those of all checkpoints.
      changes: Options of the run, `__` for the point.
    """
    config = smoke.get_config()
    config.data.shapes.num_train, config.data.shapes.num_eval = 16, 16
    config.model.name, config.model.kwargs = name, options
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    run = make_run(config)
    state = create_state(run.build, run.optimizer.tx, seed=0, abstract=run.abstract_state)
    if trained is not None:
        state = state.replace(params=trained(state.params))
    if state.ema_params is not None:
        state = state.replace(ema_params=jax.tree.map(lambda x: 1.5 * x, state.params))
    workdir = open_workdir(folder, run.options, run.task)
    with Checkpointer(workdir / "checkpoints", keep=len(steps)) as checkpointer:
        for step in steps:
            checkpointer.save(step, state, {"examples_seen": 0})
    return run, state
