"""Names of MoCo v3's checkpoints, and how pretraining goes on where one of them is.

They hold both encoders, each with its projector in the place of a classifier, and the predictor. As
weights of a trunk they are read as any other file, see `choose`.
"""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.interop.assign import source_of
from jaxvision.interop.choose import Choice
from jaxvision.interop.formats import locate, read_places, read_values
from jaxvision.interop.pretrained import published
from jaxvision.interop.rules import LINEAR, Rule, Weights, batch_norm, convert, flatten
from jaxvision.interop.run_folder import is_run, read_run
from jaxvision.layers.block_stack import stack_blocks, unstack_blocks
from jaxvision.models.image_model import PRETRAINING
from jaxvision.models.moco import Mlp
from jaxvision.models.resnet import ResNet
from jaxvision.models.vit import ViT

_PARTS = ("base_encoder.", "momentum_encoder.", "predictor.")
_BESIDE = f"{PRETRAINING}/"
_UPDATES = "updates"  # of a run, which a new one counts anew


def official_rules(model: Any) -> tuple[Rule, ...]:
    """Returns the table of the paper's code, without the prefix `module.`.

    Args:
      model: Model with all that it learns by contrast with.

    Raises:
      InputError: if the paper's code has no such trunk.
    """
    if isinstance(model, ViT):
        library, head = "timm", "head"
    elif isinstance(model, ResNet):
        library, head = "torchvision", "fc"
    else:
        raise InputError(f"MoCo v3's code has ViTs and ResNets, not a {type(model).__name__}.")
    source, config = source_of(model, library)
    trunk = [rule for rule in source.rules(config) if not str(rule.targets).startswith("head")]
    beside = getattr(model, PRETRAINING)
    projector = _mlp(beside.projector)
    return (
        *_moved(trunk, "base_encoder.", ""),
        *_moved(projector, f"base_encoder.{head}.", f"{_BESIDE}projector/"),
        *_moved(_mlp(beside.predictor), "predictor.", f"{_BESIDE}predictor/"),
        *_moved(trunk, "momentum_encoder.", f"{_BESIDE}momentum/encoder/"),
        *_moved(projector, f"momentum_encoder.{head}.", f"{_BESIDE}momentum/projector/"),
    )


def _mlp(mlp: Mlp) -> tuple[Rule, ...]:
    """Returns the rules of a torch.nn.Sequential of Linear, BatchNorm1d and ReLU in turns."""
    rules: list[Rule] = []
    for i in range(len(mlp.layers)):
        rules.append(Rule(f"{3 * i}.weight", f"layers/{i}/kernel", LINEAR))
        rules += batch_norm(f"{3 * i + 1}", f"norms/{i}")
    return *rules, *batch_norm(f"{3 * len(mlp.norms) + 1}", "last_norm")


def _moved(rules: Iterable[Rule], theirs: str, ours: str) -> list[Rule]:
    def inside(targets: str | tuple[str, ...]) -> Any:
        return ours + targets if isinstance(targets, str) else tuple(ours + t for t in targets)

    return [
        dataclasses.replace(
            rule,
            source=theirs + rule.source,
            targets=inside(rule.targets),
            aliases=tuple(theirs + alias for alias in rule.aliases),
        )
        for rule in rules
    ]


def trees(model: nnx.Module) -> tuple[Any, Any]:
    """Returns (params, batch_stats) as nested dicts, without the count of updates."""
    params, batch_stats = map(nnx.to_pure_dict, nnx.state(model, nnx.Param, nnx.BatchStat))
    batch_stats[PRETRAINING].pop(_UPDATES)
    return params, batch_stats


def continue_from(model: Any, path: str | pathlib.Path) -> None:
    """Sets what stands beside a trunk whose weights were read from a file or a run.

    Of a checkpoint of the paper's code, or of a run with the same projector and predictor, all goes
    on. Otherwise the momentum encoder becomes the trunk, and the rest stays as it is.

    Args:
      model: Model with all that it learns by contrast with, changed in place.
      path: Path of the weights, see `load_weights`.

    Raises:
      InputError: if the file has a projector or predictor of other sizes.
    """
    if is_run(path):
        found, rules = read_run(path, whole=True)[0], None
        found = {name: x for name, x in found.items() if name != f"{_BESIDE}{_UPDATES}"}
        if not any(name.startswith(_BESIDE) for name in found):
            found = None
    else:
        found, rules = _official(path), official_rules
    if found is None:
        _start_momentum(model)
        return
    target = jax.eval_shape(unstack_blocks, trees(model))
    paths = [path for tree in target for path in flatten(tree)]
    table = tuple(Rule(each, each) for each in paths) if rules is None else rules(model)
    new = convert(found, table, target=target)
    if jax.tree.structure(trees(model)) != jax.tree.structure(target):
        new = stack_blocks(new)
    for tree in jax.tree.map(jnp.asarray, new):
        nnx.update(model, tree)


def _official(path: str | pathlib.Path) -> Weights | None:
    """Returns the arrays of a checkpoint of the paper's code; None of any other file."""
    row = published(path)
    for place in read_places(locate(path) if row is None else row.fetch()):
        values = {name.removeprefix("module."): x for name, x in place.values.items()}
        if "predictor.0.weight" in values:
            values = {name: x for name, x in values.items() if name.startswith(_PARTS)}
            return read_values(Choice(values, None), (), path=path)
    return None


def _start_momentum(model: Any) -> None:
    """Lets the momentum encoder start as the trunk."""
    for kind in (nnx.Param, nnx.BatchStat):
        values = nnx.to_pure_dict(nnx.state(model, kind))
        values.pop(PRETRAINING)
        nnx.update(getattr(model, PRETRAINING).momentum.encoder, jax.tree.map(jnp.copy, values))
