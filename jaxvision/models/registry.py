"""All models by their names: those of the catalogue, and those made around its image models."""

from jaxvision.models import captioner, image_text, mae
from jaxvision.models.catalogue import (
    create_model,
    get_spec,
    is_known,
    list_models,
    register_model,
    spec_with,
)

__all__ = ["create_model", "get_spec", "is_known", "list_models", "register_model", "spec_with"]

for _spec in (*captioner.SPECS, *image_text.SPECS, *mae.SPECS):
    register_model(_spec)
