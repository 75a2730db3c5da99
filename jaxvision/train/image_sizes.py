"""Training images that grow in the course of a run, on a timetable in epochs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.train.workdir import Config

Size = int | tuple[int, int]
Stages = tuple[tuple[int, Size], ...]


def is_size(value: Any) -> bool:
    """Returns whether a value is pixels, a whole number or (height, width)."""
    sides = value if isinstance(value, tuple) else (value, value)
    return len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)


def sides(size: Size) -> tuple[int, int]:
    """Returns (height, width)."""
    return (size, size) if isinstance(size, int) else size


def image_size_stages(config: Config, *, total_steps: int, num_examples: int) -> Stages:
    """Returns ((updates made before, size of the training images from then on), ...), from 0 on.

    Args:
      config: see configs/common.py.
      total_steps: updates of the run.
      num_examples: of the training split.

    Raises:
      InputError: for a timetable that cannot work.

    Source: Tan and Le 2021, EfficientNetV2, section 4; Touvron et al. 2019, Fixing the train-test
      resolution discrepancy, for training below the size of the evaluation.
    """
    stages: list[tuple[int, Size]] = [(0, config.data.image_size)]
    before = -1
    for entry in config.data.image_size_schedule:
        try:
            epoch, size = entry
            step = round(epoch * num_examples / config.batch_size)
            good = before < step < total_steps and step >= 0 and is_size(size)
        except (TypeError, ValueError, OverflowError):
            good = False
        if not good:
            raise InputError(
                "Each of --config.data.image_size_schedule must be (epoch inside the run of "
                f"{total_steps * config.batch_size / num_examples:.4g} and after the one before, "
                f"pixels or (height, width)), got {entry!r}."
            )
        stages = stages[:-1] if step == 0 else stages
        stages.append((step, size))
        before = step
    return tuple(stages)


def check_model_takes(
    build: Callable[[nnx.Rngs], nnx.Module], stages: Stages, *, eval_size: Size
) -> None:
    """Checks that the model runs at every size; allocates nothing.

    Args:
      build: makes the model from `nnx.Rngs`.
      stages: of `image_size_stages`.
      eval_size: that the model is built for.

    Raises:
      InputError: with the size, and what the model says of it.
    """
    for size in dict.fromkeys(size for _, size in stages if size != eval_size):

        def look(images: jax.Array) -> jax.Array:
            model: Any = build(nnx.Rngs(0))
            look = model.encode if hasattr(model, "encode") else model.features
            return look(images, train=True, rngs=nnx.Rngs(dropout=0))

        try:
            jax.eval_shape(look, jax.ShapeDtypeStruct((2, *sides(size), 3), jnp.float32))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"--config.data.image_size_schedule: the model does not take images of {size} "
                f"pixels. {str(error).splitlines()[0]}"
            ) from error
