"""One model twice, in torch and here, with the same random weights; and how far apart they are."""

import copy
import dataclasses
import functools
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxvision.interop.load import assign_weights, extract_weights
from jaxvision.models.registry import create_model
from jaxvision.train.optimizer import make_optimizer

torch = pytest.importorskip("torch")
CLASSES = 10
# Adam divides by the root of the squared gradient plus this. The usual 1e-8 would blow the rounding
# of gradients that are zero (the bias of a key has none) up to the size of a step.
ADAM_EPS = 1e-3
logger = logging.getLogger(__name__)  # pytest --log-cli-level=INFO shows the numbers


def randomise(module, seed=0):
    """Draws every parameter and running statistic: a value left at 0 or 1 would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            noise = 0.5 + noise.abs()
        elif tensor.ndim == 1:
            noise = 0.2 * noise + (1.0 if name.endswith(("weight", "gamma")) else 0.0)
        elif tensor.ndim == 3:  # class token and positions
            noise = 0.5 * noise
        else:
            noise = noise / math.sqrt(tensor[0].numel())
        tensor.data.copy_(noise)


def arrays(tensors):
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


@dataclasses.dataclass
class Pair:
    peer: "torch.nn.Module"
    model: nnx.Module
    source: str

    def export(self, params, batch_stats):
        """Returns our trees under the names of the peer."""
        model = nnx.clone(self.model)
        for tree in (params, batch_stats):
            nnx.update(model, tree)
        return extract_weights(model, format=self.source)


def make_pair(peer, name, *, source, dtype="float64", **overrides):
    peer = peer.to(getattr(torch, dtype)).eval()
    randomise(peer)
    overrides = {"num_classes": CLASSES} | overrides
    model = create_model(name, dtype=dtype, rngs=nnx.Rngs(0), **overrides)
    report = assign_weights(model, arrays(peer.state_dict()))
    assert not report.adapted and not report.left_out
    return Pair(peer, model, source)


def batch(height, width, *, size=4, seed=1, channels=3):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((size, height, width, channels))
    return images, rng.integers(0, CLASSES, size)


def to_torch(images, dtype="float64"):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(
        getattr(torch, dtype)
    )


def distance(ours, theirs, *, floor=0.0):
    """Returns the largest difference / the largest number, or `floor` if that is more."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, (ours.shape, theirs.shape)
    assert np.isfinite(ours).all() and np.isfinite(theirs).all()
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), floor))


def assert_close(distances, bar):
    for name, value in distances.items():
        logger.info("%-28s %.1e", name, value)
    assert max(distances.values()) < bar, distances


def worst(ours, theirs):
    """Returns the distance of the worst array.

    An array that is zero but for rounding (the gradient of a key's bias) is held against a
    thousandth of the largest number of all.
    """
    assert set(ours) == set(theirs)
    floor = 1e-3 * max(np.abs(array).max() for array in theirs.values())
    return max(distance(ours[name], theirs[name], floor=floor) for name in theirs)


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


def torch_gradients(peer, images, labels):
    """Returns (logits, gradient of the images); those of the parameters are in `peer`."""
    images = to_torch(images).requires_grad_()
    peer.zero_grad()
    logits = peer(images)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
    return logits.detach().numpy(), images.grad.numpy().transpose(0, 2, 3, 1)


def split(model):
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


@jax.jit
def forward(model, images):
    return model(images)


def forward_distance(pair, images, dtype="float64"):
    with torch.no_grad():
        theirs = pair.peer(to_torch(images, dtype)).numpy()
    return distance(forward(pair.model, jnp.asarray(images, dtype)), theirs)


def gradient_distances(pair, images, labels, *, train):
    """Returns the distances of logits and of all gradients."""
    pair.peer.train(train)
    peer = copy.deepcopy(pair.peer)
    logits, image_gradient = torch_gradients(peer, images, labels)
    state = split(pair.model)
    (_, (our_logits, _)), (grads, our_image_gradient) = jax_gradients(
        *state, jnp.asarray(images), jnp.asarray(labels), train
    )
    names = {name for name, _ in peer.named_parameters()}
    ours = pair.export(grads, {})
    return {
        "logits": distance(our_logits, logits),
        "image gradient": distance(our_image_gradient, image_gradient),
        "parameter gradients": worst(
            {name: array for name, array in ours.items() if name in names},
            arrays({name: parameter.grad for name, parameter in peer.named_parameters()}),
        ),
    }


def torch_optimizer(peer, name, *, rate, weight_decay):
    """Returns the optimizer as a torch recipe sets it up: matrices decay, the rest does not."""
    decayed, rest = [], []
    for parameter_name, parameter in peer.named_parameters():
        matrix = parameter.ndim > 1 and not parameter_name.endswith(
            ("cls_token", "class_token", "pos_embed", "pos_embedding")
        )
        (decayed if matrix else rest).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, eps=ADAM_EPS)
    return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)


def training_distances(pair, images, labels, *, name, rate, weight_decay, steps):
    """Returns the distances of parameters and statistics after some steps of training."""
    peer = copy.deepcopy(pair.peer).train()
    optimizer = torch_optimizer(peer, name, rate=rate, weight_decay=weight_decay)
    graphdef, params, stats = split(pair.model)
    tx = make_optimizer(
        params,
        name=name,
        schedule=optax.constant_schedule(rate),
        weight_decay=weight_decay,
        eps=ADAM_EPS,
    )
    opt_state = tx.init(params)

    @jax.jit
    def update(grads, opt_state, params):
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    before = arrays(pair.peer.state_dict())
    for _ in range(steps):
        torch_gradients(peer, images, labels)
        optimizer.step()
        (_, (_, stats)), (grads, _) = jax_gradients(
            graphdef, params, stats, jnp.asarray(images), jnp.asarray(labels), True
        )
        params, opt_state = update(grads, opt_state, params)
    theirs = {n: a for n, a in arrays(peer.state_dict()).items() if a.dtype.kind == "f"}
    ours = {n: a for n, a in pair.export(params, stats).items() if a.dtype.kind == "f"}
    assert worst(ours, {n: before[n] for n in ours}) > 1e-4, "nothing was trained"
    running = {n for n in ours if "running_" in n}
    distances = {
        f"{name} parameters": worst(
            {n: a for n, a in ours.items() if n not in running},
            {n: a for n, a in theirs.items() if n not in running},
        )
    }
    if running:
        distances |= {
            f"{name} running statistics": worst(
                {n: ours[n] for n in running}, {n: theirs[n] for n in running}
            )
        }
    return distances


def assert_exports_back(pair, fresh):
    """Writes our weights into a fresh peer: strict, and with every bit.

    Args:
      pair: of the models.
      fresh: another torch model of the same kind.
    """
    exported = extract_weights(pair.model, format=pair.source)
    expected = pair.peer.state_dict()
    assert set(exported) == set(expected)
    tensors = {name: torch.from_numpy(array) for name, array in exported.items()}
    fresh.to(next(pair.peer.parameters()).dtype).load_state_dict(tensors, strict=True)
    for name, tensor in fresh.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert tensor == 0 and exported[name].dtype == np.int64
        else:
            assert torch.equal(tensor, expected[name]), name
