"""How good the features of a frozen model are: few-shot ridge regression and a linear probe."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxvision.errors import InputError
from jaxvision.metrics.few_shot import L2_GRID, RidgeClassifier, draw_shots
from jaxvision.metrics.logistic import fit_logistic
from jaxvision.metrics.outputs import Outputs

SHOTS = (1, 5, 10, 25)
SEEDS = 3  # draws of the shots
HELD_OUT_SHARE = 0.1  # of the training images of a class, to choose l2 on
LOGISTIC_L2 = tuple(10.0**i for i in range(2, -8, -1))  # the largest first: each starts the next
MAX_STEPS, TOLERANCE = 500, 1e-5


@dataclasses.dataclass(frozen=True)
class ProbeData:
    """Features and labels in three parts.

    Attributes:
      fit: Training images that are learned from.
      held_out: Training images that l2 is chosen on, a tenth of each class.
      test: Images whose accuracy is reported.
      num_classes: Number of classes of the data.
    """

    fit: Outputs
    held_out: Outputs
    test: Outputs
    num_classes: int


def split_features(train: Outputs, test: Outputs, class_names: Sequence[str]) -> ProbeData:
    """Returns the features with a part of the training images held out, always the same one.

    Raises:
      InputError: if a class has fewer than two training images.
    """
    num_classes = len(class_names)
    counts = np.bincount(train.labels, minlength=num_classes)
    if counts.min() < 2:
        name = class_names[int(counts.argmin())]
        raise InputError(
            f"The class {name!r} has {counts.min()} training images, a probe needs two of each: one"
            " to learn from and one to choose l2 on."
        )
    held = np.zeros(len(train.labels), bool)
    order = np.random.default_rng(0).permutation(len(train.labels))
    for label in range(num_classes):
        number = max(1, round(HELD_OUT_SHARE * counts[label]))
        held[order[train.labels[order] == label][:number]] = True
    return ProbeData(_some(train, ~held), _some(train, held), test, num_classes)


def _some(outputs: Outputs, chosen: np.ndarray) -> Outputs:
    return Outputs(outputs.values[chosen], outputs.labels[chosen], outputs.records[chosen])


def check_shots(data: ProbeData, shots: Sequence[int] | None) -> list[int]:
    """Returns the numbers of shots; by default those of `SHOTS` that every class has images for.

    Raises:
      InputError: if a class has fewer images than were asked for.
    """
    least = int(np.bincount(data.fit.labels, minlength=data.num_classes).min())
    if shots is None:
        return [number for number in SHOTS if number <= least]
    if max(shots) > least:
        raise InputError(
            f"A class has only {least} training images beside those that l2 is chosen on: give "
            f"--shots of at most {least}, got {max(shots)}."
        )
    return list(shots)


def few_shot(data: ProbeData, *, shots: int) -> dict[str, Any]:
    """Returns the accuracy of ridge regression on `shots` images of each class.

    Of each of three draws; l2 is the one with the best mean accuracy on the held-out images.

    Returns:
      {"accuracy": mean over the draws, "deviation": of the draws, "l2", "held_out": mean accuracy
      for each l2 of `L2_GRID`}.
    """
    models = []
    for seed in range(SEEDS):
        drawn = draw_shots(data.fit.labels, shots=shots, seed=seed)
        features, labels = data.fit.values[drawn], data.fit.labels[drawn]
        models.append(RidgeClassifier(features, labels, num_classes=data.num_classes))
    held, test = data.held_out, data.test
    held_out = [
        float(np.mean([m.accuracy(held.values, held.labels, l2=l2) for m in models]))
        for l2 in L2_GRID
    ]
    best = L2_GRID[int(np.argmax(held_out))]
    values = [m.accuracy(test.values, test.labels, l2=best) for m in models]
    return {
        "accuracy": float(np.mean(values)),
        "deviation": float(np.std(values)),
        "l2": best,
        "held_out": dict(zip(map(str, L2_GRID), held_out, strict=True)),
    }


def linear_probe(data: ProbeData) -> dict[str, Any]:
    """Returns the accuracy of logistic regression on all training images.

    The features are standardised; l2 is chosen on the held-out images, which are then learned from
    as well.

    Returns:
      {"accuracy", "l2", "held_out": accuracy for each l2 of `LOGISTIC_L2`}.
    """
    mean, deviation = data.fit.values.mean(axis=0), data.fit.values.std(axis=0) + 1e-5

    def scaled(outputs: Outputs) -> np.ndarray:
        return ((outputs.values - mean) / deviation).astype(np.float32)

    fit, held = scaled(data.fit), scaled(data.held_out)
    weights = {
        "kernel": jnp.zeros((fit.shape[1], data.num_classes)),
        "bias": jnp.zeros(data.num_classes),
    }
    held_out, fitted = [], {}
    for l2 in LOGISTIC_L2:
        weights = _fit(weights, fit, data.fit.labels, l2)
        fitted[l2] = weights
        held_out.append(_accuracy(weights, held, data.held_out.labels))
    best = LOGISTIC_L2[int(np.argmax(held_out))]
    whole = np.concatenate([fit, held])
    labels = np.concatenate([data.fit.labels, data.held_out.labels])
    weights = _fit(fitted[best], whole, labels, best)
    return {
        "accuracy": _accuracy(weights, scaled(data.test), data.test.labels),
        "l2": best,
        "held_out": dict(zip(map(str, LOGISTIC_L2), held_out, strict=True)),
    }


def _fit(weights: Any, features: np.ndarray, labels: np.ndarray, l2: float) -> Any:
    return fit_logistic(
        weights,
        jnp.asarray(features),
        jnp.asarray(labels),
        jnp.float32(l2),
        jnp.int32(MAX_STEPS),
        jnp.float32(TOLERANCE),
    )[0]


def _accuracy(
    weights: Any,
    features: Float[np.ndarray, "examples width"],
    labels: Int[np.ndarray, " examples"],
) -> float:
    guesses = np.argmax(features @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"]), -1)
    return float(np.mean(guesses == labels))
