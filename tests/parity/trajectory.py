"""One training run twice: by the step of a run's config, and by PyTorch as its users write it."""

import copy
import dataclasses
import functools
import itertools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from opening import make_run
from parity import peers

from configs import common
from jaxvision.interop.assign import assign_weights
from jaxvision.parity.pair import NOT_DECAYED
from jaxvision.train.init_from import start_from
from jaxvision.train.input import mix_and_dropout_keys, update_key
from jaxvision.train.state import create_state
from jaxvision.train.workdir import as_json

torch = pytest.importorskip("torch")
timm_optim = pytest.importorskip("timm.optim")
timm_utils = pytest.importorskip("timm.utils")
from torch.nn.functional import cross_entropy  # noqa: E402
from torch.optim import lr_scheduler  # noqa: E402

IMAGE_SIZE = 32  # pixels
BATCH_SIZE = 32  # of 8 devices and 4 micro-batches, whatever is used


def make_config(model: str, *, steps: int, options: dict, **changes: Any) -> Any:
    """Returns the config of a small run on the built-in images.

    Args:
      model: our name.
      steps: updates.
      options: of our model.
      **changes: options of the config, `__` for the dots.
    """
    config = common.get_config()
    config.model.name = model
    config.model.num_classes = peers.CLASSES
    config.model.dtype = "float64" if jax.config.jax_enable_x64 else "float32"
    config.model.kwargs = options
    config.data.image_size = IMAGE_SIZE
    config.data.eval_resize = 0
    config.data.num_threads = 2
    config.data.prefetch_examples = 32
    config.data.shapes.num_train, config.data.shapes.num_eval = 5 * BATCH_SIZE, 16
    config.data.shapes.difficulty = "easy"
    config.batch_size = config.eval_batch_size = BATCH_SIZE
    config.total_steps = steps
    config.schedule.warmup_steps = max(2, steps // 5)
    config.optimizer.weight_decay = 0.0
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config.lock()


@dataclasses.dataclass
class Trajectory:
    """What is left of a run.

    Attributes:
      traces: `loss`, `grad_norm` (before it is clipped) and `learning_rate` of every step.
      weights: parameters and running statistics at the end, under the peer's names.
      average: the same of the averaged model; None without.
    """

    traces: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    average: dict[str, np.ndarray] | None


@dataclasses.dataclass
class Start:
    """What both begin with.

    Attributes:
      run: of the config.
      pair: of the models, with the same random weights.
      state: ours before the first step.
      batches: of every step, as the input pipeline makes them.
      mixings: what our keys decide for each of them.
    """

    run: Any
    pair: peers.Pair
    state: Any
    batches: list[dict]
    mixings: list["Mixing"]


def start(peer: Any, config: Any, *, source: str, devices: int = 1) -> Start:
    """Returns the beginning of a run.

    Args:
      peer: a new module of the library; its values are overwritten.
      config: of `make_config`.
      source: the peer's library.
      devices: that our batches are split over.
    """
    run = make_run(config, devices=devices)
    peer = peer.to(getattr(torch, config.model.dtype)).train()
    peers.randomise(peer)
    model = nnx.eval_shape(lambda: run.build(nnx.Rngs(0)))
    report = assign_weights(model, peers.arrays(peer.state_dict()), source=source)
    assert not report.adapted and not report.left_out
    state = create_state(run.build, run.optimizer.tx, seed=config.seed, abstract=run.abstract_state)
    state = start_from(state, peers.split(model)[1:])
    batches = list(itertools.islice(run.train_batches(), config.total_steps))
    mixings = draw_mixings(run, state.key)
    return Start(run, peers.Pair(peer, model, source), state, batches, mixings)


def train_ours(start: Start) -> Trajectory:
    """Trains with the run's own step; uses up the state."""
    run, state, export = start.run, start.state, start.pair.export
    step, metrics = run.train_step(), []
    for batch in start.batches:
        state, measured = step(state, run.put(batch))
        metrics.append(measured)
    metrics = jax.device_get(metrics)
    assert metrics[-1]["skipped_steps"] == 0
    traces = {
        name: np.asarray([measured[name] for measured in metrics])
        for name in ("loss", "grad_norm", "learning_rate")
    }
    average = None
    if state.ema_params is not None:
        average = floats(export(state.ema_params, state.ema_batch_stats))
    return Trajectory(traces, floats(export(state.params, state.batch_stats)), average)


def floats(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the parameters and running statistics of a state dict, without counters."""
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How a batch is mixed.

    Attributes:
      kind: `none`, `mixup` or `cutmix`.
      partner: of every image, its index.
      share: of the image itself, of mixup.
      box: first and last + 1 row, the same of columns, of cutmix.
    """

    kind: str
    partner: np.ndarray
    share: float = 1.0
    box: tuple[int, int, int, int] = (0, 0, 0, 0)


def draw_mixings(run: Any, key: jax.Array) -> list[Mixing]:
    """Returns what the key of every step decides, read from mixtures of probes."""
    size, steps = run.options.batch_size, run.total_steps
    if run.train_input.mix is None:
        return [Mixing("none", np.arange(size))] * steps
    mix = functools.partial(run.train_input.mix, num_classes=size)

    @jax.jit  # one step at a time, as in training: a vector of logarithms may round differently
    def probe(step: jax.Array) -> tuple[jax.Array, jax.Array]:
        mix_key, _ = mix_and_dropout_keys(update_key(key, step))
        images = jnp.zeros((size, IMAGE_SIZE, IMAGE_SIZE, 1)).at[0].set(1.0)
        images, labels = mix(mix_key, images, jnp.arange(size))
        return images[0, :, :, 0], labels

    return [_read_mixing(*jax.device_get(probe(jnp.int32(step)))) for step in range(steps)]


def _read_mixing(own: np.ndarray, labels: np.ndarray) -> Mixing:
    """Returns the decision behind an image's share of its pixels, and the share of every image."""
    size = len(labels)
    partner = np.where(np.diag(labels) == 1, np.arange(size), (labels - np.eye(size)).argmax(1))
    if (own == 1).all():
        return Mixing("none", partner)
    if (own == own[0, 0]).all():
        return Mixing("mixup", partner, share=float(own[0, 0]))
    rows, columns = (np.flatnonzero((own == 0).any(axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return Mixing("cutmix", partner, box=(int(top), int(bottom), int(left), int(right)))


def train_peer(start: Start, **changes: Any) -> Trajectory:
    """Trains a copy of the peer as a PyTorch script does, with the parts of torch and timm.

    Args:
      start: see `start`.
      **changes: options that the script gets wrong.
    """
    peer, config = copy.deepcopy(start.pair.peer), ConfigDict(as_json(start.run.options))
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    options, warmup = config.optimizer, config.schedule.warmup_steps
    spared = [n for n, _ in peer.named_parameters() if n.endswith(NOT_DECAYED)]
    groups = timm_optim.param_groups_weight_decay(
        peer, options.weight_decay, no_weight_decay_list=spared
    )
    optimizer = make_torch_optimizer(groups, options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        rise = lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
        fall = lr_scheduler.CosineAnnealingLR(
            optimizer, config.total_steps - warmup, eta_min=config.schedule.end_learning_rate
        )
        scheduler = lr_scheduler.SequentialLR(optimizer, [rise, fall], [warmup])
    ema = timm_utils.ModelEmaV3(peer, decay=config.ema_decay) if config.ema_decay else None
    traces = {"loss": [], "grad_norm": [], "learning_rate": []}
    for step, (batch, mixing) in enumerate(zip(start.batches, start.mixings, strict=True)):
        traces["learning_rate"].append(scheduler.get_last_lr()[0])
        optimizer.zero_grad()
        images = normalised(batch["image"], start.run.spec.preprocess)
        labels = torch.from_numpy(batch["label"]).long()
        traces["loss"].append(_backward(peer, images, labels, mixing, config))
        greatest = options.clip_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(peer.parameters(), greatest)
        traces["grad_norm"].append(norm.item())
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler.step()
        if ema is not None:
            if config.ema_warmup:  # TensorFlow's; timm's own is another curve
                ema.decay = min(config.ema_decay, (1 + step) / (10 + step))
            ema.update(peer)
    average = None if ema is None else floats(peers.arrays(ema.module.state_dict()))
    dtype = config.model.dtype
    return Trajectory(
        {name: np.asarray(trace, dtype) for name, trace in traces.items()},
        floats(peers.arrays(peer.state_dict())),
        average,
    )


def _backward(peer: Any, images: Any, labels: Any, mixing: Mixing, config: Any) -> float:
    """Adds the gradient of the mean loss, in micro-batches; returns the loss."""
    images, share = mixed(images, mixing)
    images = images.to(next(peer.parameters()).dtype)
    partners = labels[torch.from_numpy(mixing.partner)]
    parts, total = config.accumulate_steps, 0.0
    for part in range(parts):
        rows = slice(part, None, parts)  # which examples make a micro-batch is ours to choose
        logits = peers.logits_of(peer(images[rows]))
        smoothing = {"label_smoothing": config.loss.label_smoothing}
        own, other = (cross_entropy(logits, x[rows], **smoothing) for x in (labels, partners))
        loss = share * own + (1 - share) * other
        (loss / parts).backward()
        total += loss.item() / parts
    return total


def normalised(images: np.ndarray, preprocess: Any) -> Any:
    """Returns uint8 images [B, H, W, C] as float64 images [B, C, H, W], mean 0, deviation 1."""
    mean, std = (
        torch.tensor(x, dtype=torch.float64)[:, None, None]
        for x in (preprocess.mean, preprocess.std)
    )
    return (peers.to_torch(images) / 255 - mean) / std


def mixed(images: Any, mixing: Mixing) -> tuple[Any, float]:
    """Returns the mixed images and their own share of the labels.

    Source: the authors' code, facebookresearch/mixup-cifar10 and clovaai/CutMix-PyTorch.
    """
    partner = images[torch.from_numpy(mixing.partner)]
    if mixing.kind == "mixup":
        return mixing.share * images + (1 - mixing.share) * partner, mixing.share
    if mixing.kind == "none":
        return images, 1.0
    top, bottom, left, right = mixing.box
    images = images.clone()
    images[:, :, top:bottom, left:right] = partner[:, :, top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])


def make_torch_optimizer(groups: list[dict], options: Any) -> Any:
    """Returns the peer's optimizer of `config.optimizer`."""
    rate, betas = options.learning_rate, (options.b1, options.b2)
    rms = {"alpha": options.b2, "eps": options.eps, "momentum": options.momentum}
    return {
        "adamw": lambda: torch.optim.AdamW(groups, lr=rate, betas=betas, eps=options.eps),
        "adam": lambda: torch.optim.Adam(groups, lr=rate, betas=betas, eps=options.eps),
        "sgd": lambda: torch.optim.SGD(
            groups, lr=rate, momentum=options.momentum, nesterov=options.nesterov
        ),
        "rmsprop": lambda: torch.optim.RMSprop(groups, lr=rate, **rms),
        "rmsprop_tf": lambda: timm_optim.RMSpropTF(groups, lr=rate, **rms),
        "lamb": lambda: timm_optim.Lamb(
            groups, lr=rate, betas=betas, eps=options.eps, max_grad_norm=None
        ),
        "lion": lambda: timm_optim.Lion(groups, lr=rate, betas=betas),
    }[options.name]()


def distances(ours: Trajectory, theirs: Trajectory) -> dict[str, float]:
    """Returns the largest relative distance of each trace, and of each kind of weights."""
    found = {name: peers.distance(ours.traces[name], theirs.traces[name]) for name in ours.traces}
    assert (ours.average is None) == (theirs.average is None)
    pairs = {"": (ours.weights, theirs.weights), "average of ": (ours.average, theirs.average)}
    for prefix, (a, b) in pairs.items():
        if a is None or b is None:
            continue
        running = {name for name in a if "running_" in name}
        kinds = {"parameters": set(a) - running, "running statistics": running}
        for kind, names in kinds.items():
            if names:
                one, other = ({n: _known(n, x[n]) for n in names} for x in (a, b))
                found[prefix + kind] = peers.worst(one, other)
    return found


def _known(name: str, array: np.ndarray) -> np.ndarray:
    """Returns the array without the bias of keys, which the softmax ignores.

    Its gradient is zero but for rounding, so that rules which divide by the gradient's size, or
    take its sign, move it at random; nothing depends on it.
    """
    if name.endswith("attn.qkv.bias"):
        query, _, value = np.split(array, 3)
        return np.concatenate([query, value])
    return np.zeros_like(array) if name.endswith(("key.bias", "k_proj.bias")) else array
