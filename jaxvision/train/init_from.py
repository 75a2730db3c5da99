"""A run that starts from weights of a file or of another run instead of random values."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from jaxvision.errors import InputError
from jaxvision.interop.adapter_file import load_adapter
from jaxvision.interop.load import load_weights
from jaxvision.options.size import Size
from jaxvision.train.state import TrainState, abstract_model, seed_keys

logger = logging.getLogger(__name__)


def load_initial(
    build: Callable[[nnx.Rngs], nnx.Module],
    path: str,
    *,
    encoder_path: str = "",
    adapter_path: str = "",
    part: str | None = None,
    image_size: Size | None = None,
    complete: Callable[[Any, str], None] | None = None,
    seed: int,
) -> Any:
    """Returns (params, batch_stats) that a run starts from, and logs what became of the file.

    What the file cannot give, a head for other classes, has the random values of the seed. Without
    any file there is nothing to start from: None.

    Args:
      build: Function that builds the model from `nnx.Rngs`.
      path: Path of the weights, as `load_weights` takes it; "": none.
      encoder_path: Path of the weights of a captioner's encoder alone, as `load_weights` takes it;
        "": none.
      adapter_path: Folder of an adapter that changes the weights of `path`, see `load_adapter`; "":
        none.
      part: Name of the place in the file whose weights are meant, see `load_weights`.
      image_size: Size of the images that the weights belong to, in pixels; None: as they say.
      complete: Function (model, path) that sets the rest, see `Task.start_from`; None: there is
        none.
      seed: Seed of the run.

    Raises:
      InputError: if a file cannot be read or does not fit the model.
    """
    if not path and not encoder_path:
        return None
    model = _initial_model(build, seed)
    if path:
        _load(model, path, part, image_size, option="init_from")
        if complete is not None:
            complete(model, path)
    if adapter_path:
        _change(model, adapter_path)
    if encoder_path:
        if getattr(model, "encoder", None) is None:
            raise InputError(
                "config.model.encoder_from: this model has no encoder; config.model.init_from "
                "gives the weights of the whole."
            )
        _load(model.encoder, encoder_path, part, image_size, option="encoder_from")
    return _weights(model)


def fits_to_images(build: Any) -> bool:
    """Returns whether a class of models sets some initial values by the training images."""
    return hasattr(build, "fit_to_images")


def fit_to_images(
    build: Callable[[nnx.Rngs], nnx.Module],
    images: Float[np.ndarray, "images height width channels"],
    *,
    seed: int,
) -> Any:
    """Returns (params, batch_stats) of a new model that has seen some training images.

    Args:
      build: Function that builds the model, which has a method `fit_to_images`, from `nnx.Rngs`.
      images: Normalised images.
      seed: Seed of the run.
    """
    model = _initial_model(build, seed)
    model.fit_to_images(images)
    return _weights(model)


def _initial_model(build: Callable[[nnx.Rngs], nnx.Module], seed: int) -> Any:
    """Returns the model with the random values of the seed."""
    key, _ = seed_keys(jax.random.key(seed))
    graphdef, _, _ = abstract_model(build)
    states = jax.jit(
        lambda key: nnx.split(build(nnx.Rngs(params=key)), nnx.Param, nnx.BatchStat)[1:]
    )(key)
    return nnx.merge(graphdef, *states)


def _weights(model: nnx.Module) -> Any:
    _, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return jax.device_get((nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)))


def _load(
    model: nnx.Module, path: str, part: str | None, image_size: Size | None, *, option: str
) -> None:
    try:
        report = load_weights(model, path, part=part, image_size=image_size)
    except InputError as error:
        raise InputError(f"config.model.{option}: {error}") from error
    logger.info("Starts from %s: %s", path, "; ".join(str(report).splitlines()))


def _change(model: nnx.Module, path: str) -> None:
    try:
        report = load_adapter(model, path)
    except InputError as error:
        raise InputError(f"config.model.adapter_from: {error}") from error
    logger.info("Changed by %s: %s", path, "; ".join(str(report).splitlines()))


def start_from(state: TrainState, initial: Any) -> TrainState:
    """Returns a new run's state with other weights, in the same shardings.

    Args:
      state: State of `create_state`. Its optimizer must not depend on the values of the parameters.
      initial: Weights of `load_initial`, (params, batch_stats).
    """
    weights = (state.params, state.batch_stats)
    # A copy each: a donated state must not hold one buffer twice.
    copy = jax.jit(
        lambda tree: jax.tree.map(jnp.copy, tree),
        out_shardings=jax.tree.map(lambda x: x.sharding, weights),
    )
    params, batch_stats = copy(initial)
    state = dataclasses.replace(state, params=params, batch_stats=batch_stats)
    if state.ema_params is None:
        return state
    params, batch_stats = copy(initial)
    return dataclasses.replace(state, ema_params=params, ema_batch_stats=batch_stats)
