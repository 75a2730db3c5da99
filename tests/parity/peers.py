"""The engine of jaxvision/parity/pair.py as assertions: agreement, or a failed test."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")

from jaxvision.interop.load import extract_weights  # noqa: E402
from jaxvision.parity.pair import (  # noqa: E402
    ADAM_EPS,
    CLASSES,
    FLOAT32_BAR,
    FLOAT64_BAR,
    Pair,
    arrays,
    batch,
    distance,
    forward,
    forward_distance,
    gradient_distances,
    jax_gradients,
    logits_of,
    make_pair,
    randomise,
    split,
    to_torch,
    torch_gradients,
    torch_optimizer,
    training_distances,
    worst,
)

__all__ = [
    "ADAM_EPS",
    "CLASSES",
    "FLOAT32_BAR",
    "FLOAT64_BAR",
    "Pair",
    "arrays",
    "assert_close",
    "assert_exports_back",
    "batch",
    "check_all",
    "check_forward",
    "distance",
    "forward",
    "forward_distance",
    "gradient_distances",
    "jax",
    "jax_gradients",
    "jnp",
    "logits_of",
    "make_pair",
    "nnx",
    "randomise",
    "split",
    "to_torch",
    "torch",
    "torch_gradients",
    "torch_optimizer",
    "training_distances",
    "with_quick",
    "worst",
]
logger = logging.getLogger(__name__)  # pytest --log-cli-level=INFO shows the numbers


def with_quick(members, *quick):
    """Returns parameters of a test; `make parity-quick` takes those named, the smallest ones."""
    assert set(quick) <= set(members)
    return [pytest.param(m, marks=pytest.mark.quick) if m in quick else m for m in members]


def assert_close(distances, bar):
    for name, value in distances.items():
        logger.info("%-28s %.1e", name, value)
    assert max(distances.values()) < bar, distances


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


def check_all(pair, images, labels, *, steps):
    """Logits, gradients, and steps of both optimizers, in float64."""
    distances = {"evaluation": forward_distance(pair, images)}
    distances |= gradient_distances(pair, images, labels, train=True)
    for name, rate, weight_decay in (("adamw", 1e-3, 0.1), ("sgd", 0.05, 1e-3)):
        distances |= training_distances(
            pair, images, labels, name=name, rate=rate, weight_decay=weight_decay, steps=steps
        )
    assert_close(distances, FLOAT64_BAR)


def check_forward(pair, build, images):
    """Logits in float32, and the way back."""
    assert_close({"evaluation": forward_distance(pair, images, "float32")}, FLOAT32_BAR)
    assert_exports_back(pair, build())
