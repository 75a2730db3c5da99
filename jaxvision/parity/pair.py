"""One model twice, in PyTorch and here, with the same random weights; and how far apart they are.

The tests of `tests/parity` and `jaxvision parity` are made of these functions. The files
`parity*.py` of this folder are the only ones of the package that import torch.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.models.registry import create_model, get_spec
from jaxvision.options.optimizer import OptimizerOptions
from jaxvision.train.optim.optimizer import make_optimizer, not_decayed_names

CLASSES = 10
FLOAT64_BAR = 1e-10  # the noise is 1e-14 to 1e-12
FLOAT32_BAR = 1e-5  # measured: 2e-7 to 7e-7; a wrong GELU gives 5e-4
# Adam divides by the root of the squared gradient plus this. The usual 1e-8 would blow the rounding
# of gradients that are zero (the bias of a key has none) up to the size of a step.
ADAM_EPS = 1e-3
# Parameters with more than one axis that recipes for PyTorch do not decay.
NOT_DECAYED = (
    "cls_token",
    "class_token",
    "dist_token",
    "distillation_token",
    "mask_token",
    "reg_token",
    "register_tokens",
    "pos_embed",
    "pos_embedding",
    "position_embeddings",
    "position_embedding.weight",
    "probe",
    "relative_position_bias_table",
    "logit_scale",
    *(f"{mlp}.{n}.weight" for mlp in ("cpb_mlp", "continuous_position_bias_mlp") for n in (0, 2)),
    "layer_scale",  # torchvision's has the shape (channels, 1, 1)
)

Distances = dict[str, float]  # what was compared -> the largest difference, relative
Detail = dict[str, Distances]  # kind -> the distance of every array of that kind


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Draws every parameter and running statistic: a value left at 0 or 1 would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    running = [(name, tensor) for name, tensor in module.named_buffers() if "running_" in name]
    for name, tensor in [*module.named_parameters(), *running]:
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            noise = 0.5 + noise.abs()
        elif tensor.ndim <= 1:
            noise = 0.2 * noise + (1.0 if name.endswith(("weight", "gamma")) else 0.0)
        elif tensor.ndim == 3:  # class token and positions
            noise = 0.5 * noise
        else:
            noise = noise / math.sqrt(tensor[0].numel())
        tensor.data.copy_(noise)


def arrays(tensors: Any) -> dict[str, np.ndarray]:
    """Returns named tensors as arrays of their own."""
    return {name: tensor.detach().numpy().copy() for name, tensor in dict(tensors).items()}


@dataclasses.dataclass
class Pair:
    """The same model in PyTorch and here.

    Attributes:
      peer: Real module of the peer's library.
      model: Model of ours, which was given the peer's weights.
      source: Library of the peer.
    """

    peer: torch.nn.Module
    model: nnx.Module
    source: str

    @property
    def dtype(self) -> str:
        """Dtype of both models."""
        return _dtype(self.peer)

    def export(self, params: Any, batch_stats: Any) -> dict[str, np.ndarray]:
        """Returns our trees under the names of the peer."""
        model = nnx.clone(self.model)
        for tree in (params, batch_stats):
            nnx.update(model, tree)
        return extract_weights(model, format=self.source)


def _dtype(peer: torch.nn.Module) -> str:
    return str(next(peer.parameters()).dtype).removeprefix("torch.")


def make_pair(
    peer: torch.nn.Module, name: str, *, source: str, dtype: str = "float64", **overrides: Any
) -> Pair:
    """Returns both models with the same random weights.

    Args:
      peer: New module of the library; its values are overwritten.
      name: Name of our model.
      source: Library of the peer.
      dtype: Dtype of both models, "float64" or "float32".
      **overrides: Options of our model; 10 classes unless they say otherwise.

    Raises:
      InputError: if a weight of the peer has no place in our model as it is.
    """
    peer = peer.to(getattr(torch, dtype)).eval()
    randomise(peer)
    option = get_spec(name).outputs_option
    options = ({option: CLASSES} if option else {}) | overrides
    # Shapes only: the weights all come from the peer, and drawing others takes seconds.
    model: Any = nnx.eval_shape(
        lambda: create_model(name, dtype=dtype, rngs=nnx.Rngs(0), **options)
    )
    size = getattr(model.config, "image_size", None)
    report = assign_weights(model, arrays(peer.state_dict()), source=source, image_size=size)
    if report.adapted or report.left_out:
        raise InputError(f"The {source} module is another model than {name}: {report}.")
    return Pair(peer, model, source)


def batch(
    height: int, width: int, *, size: int = 4, seed: int = 1, channels: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images [size, height, width, channels] and labels."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((size, height, width, channels))
    return images, rng.integers(0, CLASSES, size)


def to_torch(images: np.ndarray, dtype: str = "float64") -> torch.Tensor:
    """Returns images with the channels where PyTorch has them."""
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return torch.from_numpy(channels_first).to(getattr(torch, dtype))


def distance(ours: Any, theirs: Any, *, floor: float = 0.0) -> float:
    """Returns the largest difference / the largest number, or `floor` if that is more.

    Raises:
      ValueError: if shapes or dtypes differ, or a number is not finite.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        raise ValueError(
            f"Expected {theirs.shape} of {theirs.dtype} as the peer has, got {ours.shape} of "
            f"{ours.dtype}."
        )
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise ValueError("Both sides must be finite, got infinities or NaN.")
    if not theirs.size:
        return 0.0
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), floor, 1e-300))


def each(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> Distances:
    """Returns the distance of every array.

    An array that is zero but for rounding (the gradient of a key's bias) is held against a
    thousandth of the largest number of all.

    Raises:
      ValueError: if the names differ.
    """
    if set(ours) != set(theirs):
        raise ValueError(f"Only one side has {sorted(set(ours) ^ set(theirs))}.")
    floor = 1e-3 * max(float(np.abs(array).max()) for array in theirs.values())
    return {name: distance(ours[name], theirs[name], floor=floor) for name in theirs}


def worst(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """Returns the distance of the worst array; see `each`."""
    return max(each(ours, theirs).values())


def largest(detail: Detail) -> Distances:
    """Returns the largest distance of every kind."""
    return {kind: max(distances.values()) for kind, distances in detail.items()}


@functools.partial(jax.jit, static_argnums=(0, 5))
def jax_gradients(graphdef, params, batch_stats, images, labels, train):
    """Returns ((loss, (logits, new statistics)), (gradients of params, of images))."""

    def loss(params, images):
        model = nnx.merge(graphdef, params, batch_stats, copy=True)
        logits = model(images, train=train)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return losses.mean(), (logits, stats)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, images)


def logits_of(outputs: Any) -> torch.Tensor:
    """Returns the logits; a model of transformers wraps them."""
    return getattr(outputs, "logits", outputs)


def torch_gradients(
    peer: torch.nn.Module, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (logits, gradient of the images); those of the parameters are in `peer`."""
    inputs = to_torch(images, _dtype(peer)).requires_grad_()
    peer.zero_grad()
    logits = logits_of(peer(inputs))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
    assert inputs.grad is not None
    return logits.detach().numpy(), inputs.grad.numpy().transpose(0, 2, 3, 1)


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Any, Any]:
    """Returns (graphdef, params, batch_stats) with plain dicts."""
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


@jax.jit
def forward(model, images):
    """Returns the logits in evaluation."""
    return model(images)


def forward_distance(pair: Pair, images: np.ndarray, dtype: str = "float64") -> float:
    """Returns the distance of the logits in evaluation."""
    with torch.no_grad():
        theirs = logits_of(pair.peer(to_torch(images, dtype))).numpy()
    return distance(forward(pair.model, jnp.asarray(images, dtype)), theirs)


def gradient_detail(pair: Pair, images: np.ndarray, labels: np.ndarray, *, train: bool) -> Detail:
    """Returns the distances of the logits and of every gradient of the cross-entropy."""
    pair.peer.train(train)
    peer = copy.deepcopy(pair.peer)
    logits, image_gradient = torch_gradients(peer, images, labels)
    (_, (our_logits, _)), (grads, our_image_gradient) = jax_gradients(
        *split(pair.model), jnp.asarray(images, pair.dtype), jnp.asarray(labels), train
    )
    theirs = arrays((name, _gradient(value)) for name, value in peer.named_parameters())
    ours = pair.export(grads, {})
    return {
        "logits": {"logits": distance(our_logits, logits)},
        "image gradient": {"images": distance(our_image_gradient, image_gradient)},
        "parameter gradients": each({n: a for n, a in ours.items() if n in theirs}, theirs),
    }


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def gradient_distances(
    pair: Pair, images: np.ndarray, labels: np.ndarray, *, train: bool
) -> Distances:
    """Returns the distances of logits and of all gradients."""
    return largest(gradient_detail(pair, images, labels, train=train))


def torch_optimizer(
    peer: torch.nn.Module, name: str, *, rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Returns the optimizer as a torch recipe sets it up: matrices decay, the rest does not."""
    decayed, rest = [], []
    for parameter_name, parameter in peer.named_parameters():
        matrix = parameter.ndim > 1 and not parameter_name.endswith(NOT_DECAYED)
        (decayed if matrix else rest).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, eps=ADAM_EPS)
    return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)


def training_detail(
    pair: Pair,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    name: str,
    rate: float,
    weight_decay: float,
    steps: int,
) -> Detail:
    """Returns the distances of every parameter and running statistic after steps of training.

    Raises:
      ValueError: if nothing was trained.
    """

    def ours(graphdef: Any, params: Any, stats: Any) -> tuple[Any, Any]:
        (_, (_, stats)), (grads, _) = jax_gradients(
            graphdef, params, stats, jnp.asarray(images, pair.dtype), jnp.asarray(labels), True
        )
        return grads, stats

    return trained_detail(
        pair,
        lambda peer: torch_gradients(peer, images, labels),
        ours,
        name=name,
        rate=rate,
        weight_decay=weight_decay,
        steps=steps,
    )


def trained_detail(
    pair: Pair,
    their_gradients: Callable[[torch.nn.Module], Any],
    our_gradients: Callable[[Any, Any, Any], tuple[Any, Any]],
    *,
    name: str,
    rate: float,
    weight_decay: float,
    steps: int,
) -> Detail:
    """Returns the distances of every parameter and running statistic after steps of training.

    Args:
      pair: Pair of the models.
      their_gradients: Function that leaves the gradients of a step in the peer's parameters.
      our_gradients: Function (graphdef, params, statistics) -> (gradients, new statistics).
      name: Name of the optimizer.
      rate: Learning rate.
      weight_decay: Weight decay.
      steps: Number of steps.

    Raises:
      ValueError: if nothing was trained.
    """
    peer = copy.deepcopy(pair.peer).train()
    optimizer = torch_optimizer(peer, name, rate=rate, weight_decay=weight_decay)
    graphdef, params, stats = split(pair.model)
    tx = make_optimizer(
        params,
        OptimizerOptions(name=name, weight_decay=weight_decay, eps=ADAM_EPS),
        schedule=optax.constant_schedule(rate),
        not_decayed=not_decayed_names(pair.model),
    )
    opt_state = tx.init(params)

    @jax.jit
    def update(grads, opt_state, params):
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    before = arrays(pair.peer.state_dict())
    for _ in range(steps):
        their_gradients(peer)
        optimizer.step()
        grads, stats = our_gradients(graphdef, params, stats)
        params, opt_state = update(grads, opt_state, params)
    theirs = {n: a for n, a in arrays(peer.state_dict()).items() if a.dtype.kind == "f"}
    ours = {n: a for n, a in pair.export(params, stats).items() if a.dtype.kind == "f"}
    if worst(ours, {n: before[n] for n in ours}) < 1e-4:
        raise ValueError(f"{steps} steps of {name} at {rate} have trained nothing.")
    running = {n for n in ours if "running_" in n}
    kinds = {"parameters": set(ours) - running, "running statistics": running}
    return {
        f"{name} {kind}": each({n: ours[n] for n in names}, {n: theirs[n] for n in names})
        for kind, names in kinds.items()
        if names
    }


def training_distances(pair: Pair, images: np.ndarray, labels: np.ndarray, **how: Any) -> Distances:
    """Returns the distances of parameters and statistics after some steps of training."""
    return largest(training_detail(pair, images, labels, **how))
