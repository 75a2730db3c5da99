"""How deep each parameter of an image model stands: the order that transfer recipes go by.

Everything here reads parameter paths with one name for each block, such as
`stages/2/3/conv1/kernel` or `blocks/11/mlp/fc1/bias`.
"""

import re
from collections.abc import Iterable

from flax import nnx

from jaxvision.models.image_model import TRAINING_ONLY, ImageModel, LayerGroups

# What other classes, or another teacher's features, replace.
HEAD = re.compile(rf"(head(_\w+)?|{'|'.join(TRAINING_ONLY)})/")
_STAGE = re.compile(r"stages/(\d+)/")
_STEM_KEY, _LAST_BLOCK, _OWN_LAYER, _HEAD_KEY = (0,), (2,), (3,), (4,)


def layer_groups_of(model: nnx.Module) -> LayerGroups:
    """Returns what an image model's class says of its layers; of a captioner, its encoder's."""
    encoder = getattr(model, "encoder", None)
    image_model = model if encoder is None else encoder
    return image_model.layer_groups if isinstance(image_model, ImageModel) else LayerGroups()


def trunk_names(names: Iterable[str]) -> dict[str, str]:
    """Returns the names inside the image model, of the parameters that belong to it.

    The image model of a captioner is its encoder; the rest is as new as a head is.
    """
    names = tuple(names)
    if any(name.startswith(("decoder/", "encoder/")) for name in names):
        inside = {name: name.removeprefix("encoder/") for name in names}
        return {name: inner for name, inner in inside.items() if inner != name}
    return {name: name for name in names}


def layer_numbers(names: Iterable[str], layer_groups: LayerGroups) -> dict[str, int]:
    """Returns the layer of each parameter, as timm groups them for layer-wise decay.

    The stem is layer 0, each block one layer, the head the last. What joins two stages belongs to
    the block behind it, a last norm or convolution to the last block, unless the family says
    otherwise: where timm itself differs from family to family, so do we.

    Args:
      names: Paths of all parameters.
      layer_groups: Places of the parameters between image and head, see `layer_groups_of`.
    """
    names = tuple(names)
    inside = trunk_names(names)
    keys = {n: _layer_key(inside[n], layer_groups) if n in inside else _HEAD_KEY for n in names}
    layers, number = {}, -1
    for key in sorted(set(keys.values())):
        if key != _LAST_BLOCK or number < 1:
            number += 1
        layers[key] = number
    return {name: layers[key] for name, key in keys.items()}


def _layer_key(name: str, layer_groups: LayerGroups) -> tuple[int, ...]:
    """Returns what the layers are ordered by."""
    if HEAD.match(name) or _matches(layer_groups.with_head, name):
        return _HEAD_KEY
    if re.match(layer_groups.stem, name):
        return _STEM_KEY
    place = _place(name, layer_groups)
    if place is not None:
        return (1, *place)
    return _OWN_LAYER if _matches(layer_groups.behind, name) else _LAST_BLOCK


def _matches(pattern: str | None, name: str) -> bool:
    return pattern is not None and re.match(pattern, name) is not None


def _place(name: str, layer_groups: LayerGroups) -> tuple[int, ...] | None:
    """Returns the numbers of stage and block; what joins two stages goes with the first block."""
    block = re.match(layer_groups.blocks, name)
    if block:
        return tuple(int(number) for number in block.groups() if number is not None)
    stage = _STAGE.match(name)
    return (int(stage[1]), 0) if stage else None


def unit_numbers(names: Iterable[str], layer_groups: LayerGroups) -> tuple[dict[str, int], int]:
    """Returns the unit of each parameter, and how many there are.

    A unit is a stage, or a block of a model without stages. The stem is unit -1; what follows the
    last one has the number of units.
    """
    names = tuple(names)
    inside = trunk_names(names)
    places = {name: _place(inner, layer_groups) for name, inner in inside.items()}
    units = {name: place[0] for name, place in places.items() if place is not None}
    count = max(units.values(), default=-1) + 1
    for name in names:
        stem = name in inside and re.match(layer_groups.stem, inside[name])
        units.setdefault(name, -1 if stem else count)
    return units, count


def is_head(names: Iterable[str]) -> dict[str, bool]:
    """Returns whether each parameter is in the head; of a captioner, in all but the encoder."""
    names = tuple(names)
    inside = trunk_names(names)
    return {name: name not in inside or HEAD.match(inside[name]) is not None for name in names}
