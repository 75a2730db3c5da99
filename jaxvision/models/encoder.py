"""The image model inside of another model: named in its config, built without a head."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from jaxvision.errors import InputError
from jaxvision.models.catalogue import create_model, get_spec
from jaxvision.models.image_model import ImageModel


def hashable_options(
    options: Mapping[str, Any] | tuple[tuple[str, Any], ...],
) -> tuple[tuple[str, Any], ...]:
    """Returns options of an encoder, written as a dict, as what can be hashed."""
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in dict(options).items()
    }
    return tuple(sorted(values.items()))


def build_encoder(config: Any, rngs: nnx.Rngs) -> ImageModel:
    """Returns the image model that a config names, without its head.

    Args:
      config: Config with `encoder`, `encoder_options`, `image_size` and `dtype`.
      rngs: Source of the initial values.

    Raises:
      InputError: if it is no image model of the registry.
    """
    spec = get_spec(str(config.encoder), task="classification")
    options: dict[str, Any] = dict(config.encoder_options)
    sized = "image_size" in {field.name for field in dataclasses.fields(spec.config)}
    if config.image_size is not None and sized:
        options.setdefault("image_size", config.image_size)
    encoder = create_model(spec.name, num_classes=0, dtype=config.dtype, rngs=rngs, **options)
    if not isinstance(encoder, ImageModel):
        raise InputError(f"An encoder must be an ImageModel, {spec.name} is none.")
    return encoder
