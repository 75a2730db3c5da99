"""Training images that grow in the course of a run, on a timetable in epochs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.options.data import DataOptions
from jaxvision.options.length import RunLength
from jaxvision.options.size import Size, is_size, sides

Stages = tuple[tuple[int, Size], ...]


def image_size_stages(options: DataOptions, length: RunLength) -> Stages:
    """Returns ((updates made before, size of the training images from then on), ...), from 0 on.

    Args:
      options: Options of the data: size of the images, and its timetable.
      length: Length of the run.

    Raises:
      InputError: for a timetable that cannot work.

    Source: Tan and Le 2021, EfficientNetV2, section 4; Touvron et al. 2019, Fixing the train-test
      resolution discrepancy, for training below the size of the evaluation.
    """
    stages: list[tuple[int, Size]] = [(0, options.image_size)]
    before = -1
    for entry in options.image_size_schedule:
        try:
            epoch, size = entry
            step = length.step_of(epoch)
            good = before < step < length.total_steps and step >= 0 and is_size(size)
        except (TypeError, ValueError, OverflowError):
            good = False
        if not good:
            raise InputError(
                "Each of --config.data.image_size_schedule must be (epoch inside the run of "
                f"{length.total_epochs:.4g} and after the one before, "
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
      build: Function that builds the model from `nnx.Rngs`.
      stages: Sizes of the training images, see `image_size_stages`.
      eval_size: Size of the images that the model is built for.

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
