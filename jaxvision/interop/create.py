"""Models with the weights that were published for them."""

from typing import Any

from flax import nnx

from jaxvision.errors import InputError
from jaxvision.interop import pretrained as published
from jaxvision.interop.load import load_weights
from jaxvision.models import registry


def create_model(
    name: str,
    *,
    pretrained: bool | str = False,
    num_classes: int | None = None,
    dtype: str = "float32",
    rngs: nnx.Rngs | None = None,
    **overrides: Any,
) -> nnx.Module:
    """Returns a new model, with random parameters or with published ones.

    A model with published weights has their image size and their classes, unless it is asked for
    others: then positions are resized, and the head has random values.

    Args:
      name: Name of the model, see `get_spec`; also with the tag behind it, "resnet50.a1_in1k".
      pretrained: Weights to load: True for those that `list_weights` names first, or a tag,
        "a1_in1k"; False: none.
      num_classes: Number of outputs of an image model's head; None: as published; 0: no head.
      dtype: Compute dtype, "float32", "bfloat16", "float16" or "float64".
      rngs: Source of the initial values; None: `nnx.Rngs(0)`.
      **overrides: Further fields of the family's config, of a captioner `vocab_size` among them.

    Raises:
      InputError: if there is no such model or no such weights, or a value does not fit.
      TypeError: if an override is no field of the family's config; the message lists the fields.
    """
    rngs = nnx.Rngs(0) if rngs is None else rngs
    if not registry.is_known(name) and published.is_tag(name):
        if pretrained is False:
            raise InputError(
                f"{name} names weights: say pretrained=True, or leave out what is behind the point."
            )
        if pretrained is not True and pretrained not in (name, name.partition(".")[2]):
            raise InputError(f"{name} and pretrained={pretrained!r} are two sets of weights.")
        row = published.get_weights(name)
        name = row.model
    elif pretrained is False:
        return registry.create_model(
            name, num_classes=num_classes, dtype=dtype, rngs=rngs, **overrides
        )
    else:
        row = published.weights_of(name, pretrained)
    if row.image_size is not None and hasattr(registry.get_spec(name).config, "image_size"):
        overrides.setdefault("image_size", row.image_size)
    num_classes = row.num_outputs if num_classes is None else num_classes
    model = registry.create_model(
        name, num_classes=num_classes, dtype=dtype, rngs=rngs, **overrides
    )
    load_weights(model, published.check_no_path(row))
    return model
