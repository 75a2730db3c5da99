"""The table of parameter groups: what is trained, how fast, from when, and what its state takes."""

import math

import jax
from flax import nnx

from jaxvision.profiling.memory import size_text
from jaxvision.profiling.table import text_table
from jaxvision.train.optim.optimizer import decay_mask, not_decayed_names
from jaxvision.train.optim.param_groups import param_names
from jaxvision.train.run import Run

_EXAMPLES = 2  # paths shown of each group


def group_table(run: Run) -> str:
    """Returns a row for each group: paths, parameters, learning rate, decay, start, state.

    Parameters of one rule that weight decay applies to and those that it spares are two groups.
    """
    shapes = param_names(run.abstract_state.params)
    model = nnx.eval_shape(lambda: run.build(nnx.Rngs(0)))
    decays, state = decay_mask(shapes, not_decayed_names(model)), _state_bytes(run)
    rows = {}
    for name, shape in shapes.items():
        rows.setdefault((run.groups[name], decays[name]), []).append((name, shape))
    options = run.options.optimizer
    cells = []
    for (group, decayed), members in rows.items():
        paths = [name for name, _ in members]
        shown = ", ".join(paths[:_EXAMPLES]) + (", ..." if len(paths) > _EXAMPLES else "")
        frozen = group.start_step is None
        decay = options.weight_decay * group.weight_decay if decayed else 0.0
        cells.append(
            [
                group.name,
                f"{sum(math.prod(shape.shape) for _, shape in members):,}",
                "frozen" if frozen else f"x {group.learning_rate:.4g}",
                "" if frozen else f"{decay:.4g}",
                "" if frozen else f"{group.start_step:,}",
                size_text(0 if frozen else sum(state * _bytes(shape) for _, shape in members)),
                shown,
            ]
        )
    header = ["group", "parameters", "learning rate", "decay", "from step", "state", "paths"]
    return text_table(header, cells)


def trained_share(run: Run) -> str:
    """Returns how many parameters are trained, of how many, and how many never are."""
    shapes = param_names(run.abstract_state.params)
    sizes = {name: math.prod(shape.shape) for name, shape in shapes.items()}
    frozen = sum(n for name, n in sizes.items() if run.groups[name].start_step is None)
    total = sum(sizes.values())
    share = f"{1 - frozen / total:.2%}"
    return f"trained: {total - frozen:,} of {total:,} parameters ({share}); frozen: {frozen:,}"


def _state_bytes(run: Run) -> float:
    """Returns the bytes of optimizer state for each byte of a parameter that is trained."""
    state = jax.tree.leaves(run.abstract_state.opt_state)
    shapes = param_names(run.abstract_state.params)
    trained = sum(_bytes(x) for n, x in shapes.items() if run.groups[n].start_step is not None)
    return sum(_bytes(x) for x in state if x.ndim) / trained


def _bytes(x: jax.ShapeDtypeStruct) -> int:
    return math.prod(x.shape) * x.dtype.itemsize
