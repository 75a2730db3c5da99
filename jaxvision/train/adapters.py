"""Which layers of a run's model get an adapter."""

import functools
import re
from collections.abc import Callable
from typing import Any

from flax import nnx

from jaxvision.errors import InputError
from jaxvision.layers.adapter import Ia3, Lora
from jaxvision.layers.conv import Conv
from jaxvision.layers.linear import Linear
from jaxvision.options.adapter import AdapterOptions
from jaxvision.options.options import Options
from jaxvision.train.optim.freeze import block_paths
from jaxvision.train.optim.layer_depth import is_head
from jaxvision.train.optim.param_groups import matching_names

# What Liu et al. 2022 scale: keys, values, and what the second layer of an MLP reads.
_IA3_TARGETS = "/(key|value|fc2)/kernel$"
_WITHOUT_LABELS = ("masked_autoencoding", "momentum_contrast")
_SCALES_INPUTS = re.compile("/fc2/kernel$")


def with_adapters(
    build: Callable[[nnx.Rngs], nnx.Module], params: Any, options: Options
) -> Callable[[nnx.Rngs], nnx.Module]:
    """Returns the function that builds a model with the adapters that the options ask for.

    Args:
      build: Function that builds the model without them from `nnx.Rngs`.
      params: Parameters of that model, as arrays or shapes.
      options: Options of the run.

    Raises:
      InputError: if the targets are none, or some blocks of a stack.
    """
    kind = options.optimizer.preset
    if options.task in _WITHOUT_LABELS:
        raise InputError(
            f"--config.optimizer.preset={kind} goes on from trained weights, but "
            f"--config.task={options.task} trains such: choose another preset."
        )
    layers = _layers(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    head = is_head(name for _, names in layers for name in names)
    names = [name for name, is_in_head in head.items() if not is_in_head]
    if not names:
        raise InputError(
            f"--config.optimizer.preset={kind} needs linear layers or 1x1 convolutions before the "
            f"head, and {options.model.name} has none: choose another preset."
        )
    pattern = options.adapter.targets or (_IA3_TARGETS if kind == "ia3" else "")
    targets = frozenset(matching_names(pattern, names, option="adapter.targets"))
    for _, names in layers:
        if 0 < len(targets.intersection(names)) < len(names):
            raise InputError(
                f"--config.adapter.targets={pattern!r} matches some of the {len(names)} blocks that"
                " run as one: match all of them, or set --config.model.kwargs.scan=False."
            )
    return functools.partial(
        _build, build=build, targets=targets, kind=kind, options=options.adapter
    )


def _layers(model: nnx.Module) -> list[tuple[Linear | Conv, list[str]]]:
    """Returns the layers that may have an adapter, with the paths of their kernels by block."""
    found = []
    for path, layer in nnx.iter_modules(model):
        if isinstance(layer, Linear) or (isinstance(layer, Conv) and layer.is_product):
            name = "/".join(map(str, (*path, "kernel")))
            found.append((layer, block_paths(name, layer.kernel.shape[0])))
    return found


def _build(
    rngs: nnx.Rngs,
    *,
    build: Callable[[nnx.Rngs], nnx.Module],
    targets: frozenset[str],
    kind: str,
    options: AdapterOptions,
) -> nnx.Module:
    """Returns a model some of whose layers have an adapter.

    Args:
      rngs: Source of the initial values.
      build: Function that builds the model without adapters.
      targets: Paths of the kernels beside which there is one.
      kind: Kind of the adapters.
      options: Options of the adapters.
    """
    model = build(rngs)
    for layer, names in _layers(model):
        if names[0] not in targets:
            continue
        shape, dtype = layer.kernel.shape, layer.kernel.dtype
        depth = shape[0] if len(shape) in (3, 5) else 0  # of a stack
        if kind == "ia3":
            of_inputs = _SCALES_INPUTS.search(names[0]) is not None
            layer.adapter = Ia3(shape, depth=depth, of_inputs=of_inputs, param_dtype=dtype)
        else:
            layer.adapter = Lora(
                shape,
                depth=depth,
                rank=options.rank,
                scale=options.scale,
                dropout_rate=options.dropout,
                param_dtype=dtype,
                rngs=rngs,
            )
    return model
