"""The outputs of corresponding modules, side by side: which layer is the first that disagrees?"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from jaxvision.interop.assign import weight_names
from jaxvision.layers.block_stack import unstack_blocks
from jaxvision.parity.pair import Pair, distance, split, to_torch
from jaxvision.profiling.module_calls import watch_calls

# How much nearer the output of another module than the innermost must be to be meant instead.
MUCH_NEARER = 1e-3


@dataclasses.dataclass(frozen=True)
class Layer:
    """A module that both models have.

    Attributes:
      theirs: Name of the module in the peer.
      ours: Path of the module here; of several that the peer has in one, joined by " + ".
      distance: Distance of the outputs, relative to the largest number.
    """

    theirs: str
    ours: str
    distance: float


def compare_layers(pair: Pair, images: np.ndarray) -> list[Layer]:
    """Returns the distances of all outputs that correspond, in the order of the peer's computation.

    Two modules correspond if they hold the same weights, told by the table of names. Where several
    hold the same, or a library has the activation inside the norm, it is the innermost, unless
    another is much nearer. Left out are modules that one side never calls, and outputs that have
    another shape there even with the channels last.

    Args:
      pair: Pair of the models; evaluation is compared.
      images: Images [batch, height, width, channels].
    """
    theirs = _peer_outputs(pair, images)
    ours = _our_outputs(pair.model, jnp.asarray(images, pair.dtype))
    layers = []
    for modules, candidates in _corresponding(pair, theirs, ours):
        options = [
            Layer(module, " + ".join(paths), value)
            for module in modules
            for paths in candidates
            if (value := _distance([ours[path] for path in paths], theirs[module])) is not None
        ]
        if options:
            first, nearest = options[0], min(options, key=lambda layer: layer.distance)
            layers.append(nearest if nearest.distance < MUCH_NEARER * first.distance else first)
    order = {module: place for place, module in enumerate(theirs)}  # in which the calls returned
    return sorted(layers, key=lambda layer: order[layer.theirs])


def _peer_outputs(pair: Pair, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the output of every module of the peer that was called, the earliest first."""
    outputs: dict[str, np.ndarray] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, torch.Tensor):
                outputs[name] = tensor.numpy().copy()

        return hook

    peer = pair.peer.eval()
    handles = [module.register_forward_hook(keep(name)) for name, module in peer.named_modules()]
    try:
        with torch.no_grad():
            peer(to_torch(images, pair.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _our_outputs(model: Any, images: jax.Array) -> dict[str, np.ndarray]:
    """Returns the output of every module of ours that was called, by path."""
    if getattr(model.config, "scan", False):  # one block that stands for many has no own outputs
        _, params, stats = split(model)
        config = dataclasses.replace(model.config, scan=False)
        model = nnx.eval_shape(lambda: type(model)(config, rngs=nnx.Rngs(0)))
        for tree in unstack_blocks((params, stats)):
            nnx.update(model, tree)
    outputs: dict[str, np.ndarray] = {}

    def around(path: str, call: Callable[[], Any]) -> Any:
        output = call()
        if isinstance(output, jax.Array):
            # Blocks run inside `jax.checkpoint`, which lets nothing out but its result.
            jax.debug.callback(lambda value: outputs.update({path: np.array(value)}), output)
        return output

    with watch_calls(model, around) as watched:
        jax.jit(lambda model, images: model(images))(watched, images).block_until_ready()
    jax.effects_barrier()
    return outputs


def _corresponding(
    pair: Pair, theirs: Iterable[str], ours: Iterable[str]
) -> list[tuple[list[str], list[tuple[str, ...]]]]:
    """Returns (modules of the peer, our modules) that hold the same weights, the innermost first.

    Of ours, several paths in one tuple are one module there, and the module around them is added.
    """
    names = weight_names(pair.model, format=pair.source)
    paths = {name: tuple(p.replace("/", ".") for p in targets) for name, targets in names.items()}

    def held_there(module: str) -> frozenset[str]:
        return frozenset(name for name in paths if _within(module, name))

    def held_here(path: str) -> frozenset[str] | None:
        some = frozenset(
            n for n, targets in paths.items() if any(_within(path, t) for t in targets)
        )
        whole = all(_within(path, target) for name in some for target in paths[name])
        return some if whole else None  # a query alone is a part of what is one array there

    there: dict[frozenset[str], list[str]] = {}
    for module in sorted(theirs, key=len, reverse=True):
        there.setdefault(held_there(module), []).append(module)
    here = {held_here(path): path for path in sorted(ours, key=len)}  # the longest path stays
    known, found = set(ours), []
    for held, modules in there.items():
        owners = {tuple(target.rpartition(".")[0] for target in paths[name]) for name in held}
        several = next(iter(owners), ())
        if len(owners) == 1 and len(several) > 1 and known.issuperset(several):
            found.append((modules, [several]))
        elif held and held in here:
            around = here[held].rpartition(".")[0]
            candidates = [path for path in (here[held], around) if path in known]
            found.append((modules, [(path,) for path in candidates]))
    return found


def _within(module: str, name: str) -> bool:
    return name.startswith(f"{module}.")


def _distance(ours: list[np.ndarray], theirs: np.ndarray) -> float | None:
    """Returns the distance in the layout that fits, None if none does."""
    output = np.concatenate(ours, axis=-1)
    layouts = [theirs, theirs.transpose(0, 2, 3, 1)] if theirs.ndim == 4 else [theirs]
    distances = [
        distance(output, layout.reshape(output.shape))
        for layout in layouts
        if layout.size == output.size and layout.shape[-1] == output.shape[-1]
    ]
    return min(distances, default=None)
