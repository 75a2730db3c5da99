"""Model soups: one model whose weights are the mean of those of several fine-tuned ones."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxvision.data.classes import class_difference
from jaxvision.errors import InputError
from jaxvision.interop.assign import extract_weights
from jaxvision.interop.fill import fill_weights
from jaxvision.interop.rules import Weights
from jaxvision.interop.run_folder import is_run
from jaxvision.interop.trained import Trained, open_trained


@dataclasses.dataclass(frozen=True)
class Ingredient:
    """One model.

    Attributes:
      path: Path that the model was read from.
      weights: Weights of the model, by our paths.
    """

    path: str
    weights: Weights


def open_ingredients(
    paths: Sequence[str], name: str | None = None
) -> tuple[Trained, list[Ingredient]]:
    """Returns the first model, and the weights of all.

    Args:
      paths: Files of weights, or folders of runs. After a run, a file is of its model.
      name: Name of the model; None: of a run, its own.

    Raises:
      InputError: if one cannot be read, or has another architecture or other classes than the
        first.
    """
    first: Trained | None = None
    ingredients: list[Ingredient] = []
    for path in paths:
        if first is not None and not is_run(path):
            trained = dataclasses.replace(first, model=_filled(first.model, path))
        else:
            trained = open_trained(path, name)
        weights = extract_weights(trained.model, format="jaxvision")
        if first is None:
            first = trained
        else:
            check_same(ingredients[0], Ingredient(path, weights))
            _check_images(first, trained, paths[0], path)
            if (trained.thresholds is None) != (first.thresholds is None):
                raise InputError(
                    f"Of {path} and {paths[0]} one says several labels of an image, the other one;"
                    " average models of one task."
                )
            if trained.class_names and first.class_names not in ((), trained.class_names):
                difference = class_difference(trained.class_names, first.class_names)
                raise InputError(
                    f"{path} has other classes than {paths[0]}: it "
                    f"{difference or 'has them in another order'}; average models of one data set."
                )
        ingredients.append(Ingredient(path, weights))
    assert first is not None
    return first, ingredients


def _check_images(first: Trained, other: Trained, first_path: str, path: str) -> None:
    """Raises InputError if two models want different images: one soup cannot have both."""
    wanted, its = (
        {
            "mean": each.spec.preprocess.mean,
            "deviation": each.spec.preprocess.std,
            "resize and crop": each.transform,
        }
        for each in (first, other)
    )
    for what, value in its.items():
        if value != wanted[what]:
            raise InputError(
                f"{path} prepares images otherwise than {first_path} ({what}: {value} instead of "
                f"{wanted[what]}); average models that see the same images."
            )


def _filled(like: Any, path: str) -> Any:
    graphdef, state = nnx.split(like)
    model = nnx.merge(graphdef, jax.eval_shape(lambda: state))
    fill_weights(model, path)
    return model


def check_same(first: Ingredient, other: Ingredient) -> None:
    """Raises an InputError that names the first array which only one has, or of another shape."""
    for name in sorted(first.weights.keys() | other.weights.keys()):
        shapes = [
            each.weights[name].shape if name in each.weights else None for each in (first, other)
        ]
        if shapes[0] != shapes[1]:
            texts = ["missing" if shape is None else f"of shape {shape}" for shape in shapes]
            raise InputError(
                f"{other.path} is another model than {first.path}: {name} is {texts[1]} there and "
                f"{texts[0]} here; average models of one architecture."
            )


def mean_weights(models: Iterable[Weights]) -> Weights:
    """Returns the mean of each array, in its own dtype; one model after the other is looked at."""
    sums: dict[str, np.ndarray] = {}
    dtypes: dict[str, np.dtype] = {}
    number = 0
    for weights in models:
        number += 1
        for name, array in weights.items():
            sums[name] = sums.get(name, 0) + np.asarray(array, np.float64)
            dtypes.setdefault(name, array.dtype)
    return {name: np.asarray(total / number, dtypes[name]) for name, total in sums.items()}


@dataclasses.dataclass(frozen=True)
class GreedySoup:
    """What the greedy recipe made.

    Attributes:
      weights: Weights of the soup, the mean of the chosen models.
      chosen: Paths of the chosen models, in the order in which they were added.
      scores: Score of each model alone, by its path.
      score: Score of the soup.
    """

    weights: Weights
    chosen: list[str]
    scores: dict[str, float]
    score: float


def greedy_soup(
    ingredients: Sequence[Ingredient],
    score: Callable[[Weights], float],
    mix: Callable[[Sequence[Weights]], Weights] = mean_weights,
) -> GreedySoup:
    """Adds the models one by one, the best first, and keeps those that do not make the soup worse.

    Args:
      ingredients: Models of one architecture.
      score: Function from weights to their score on held-out images; more is better.
      mix: Function from the weights of several models to those of their soup.

    Source: Wortsman et al. 2022, Model soups, recipe 1.
    """
    scores = {each.path: score(each.weights) for each in ingredients}
    ranked = sorted(ingredients, key=lambda each: -scores[each.path])  # stable: ties as given
    soup, best = [ranked[0]], scores[ranked[0].path]
    weights = ranked[0].weights
    for each in ranked[1:]:
        candidate = mix([other.weights for other in [*soup, each]])
        value = score(candidate)
        if value >= best:
            soup, best, weights = [*soup, each], value, candidate
    return GreedySoup(weights, [each.path for each in soup], scores, best)
