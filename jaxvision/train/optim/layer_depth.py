"""How deep each parameter of an image model stands: the order that transfer recipes go by.

Everything here reads parameter paths with one name for each block, such as
`stages/2/3/conv1/kernel` or `blocks/11/mlp/fc1/bias`.
"""

import re
from collections.abc import Iterable

from jaxvision.models.image_model import PROJECTION

# What other classes, or another teacher's features, replace.
HEAD = re.compile(rf"(head(_dist)?|{PROJECTION})/")
_STEM = re.compile(r"(stem|stem_norm|patch_embed|patch_norm|cls_token|dist_token|pos_embed)(/|$)")
_BLOCK = re.compile(r"(?:stages/(\d+)/(?:blocks/)?(\d+)|blocks/(\d+))/")
_STAGE = re.compile(r"stages/(\d+)/")
_UNIT = re.compile(r"(?:stages|blocks)/(\d+)/")
_FIRST_STEM = re.compile(r"stages/0/(patch_embed|patch_norm|pos_embed)(/|$)")  # of pyramids
# Where timm counts a layer of its own that we count to the last block, or to the head.
_OWN_LAYER = {"mobilenet_v3": re.compile(r"last_conv/")}
_WITH_HEAD = {"mobilenet_v3": re.compile(r"hidden/"), "convnext": re.compile(r"norm/")}
_ONE_LAYER_A_STAGE = ("pvt_v2",)
_STEM_KEY, _LAST_BLOCK, _HEAD_KEY = (0,), (2, 0), (3,)


def trunk_names(names: Iterable[str]) -> dict[str, str]:
    """Returns the names inside the image model, of the parameters that belong to it.

    The image model of a captioner is its encoder; the rest is as new as a head is.
    """
    names = tuple(names)
    if any(name.startswith("decoder/") for name in names):
        inside = {name: name.removeprefix("encoder/") for name in names}
        return {name: inner for name, inner in inside.items() if inner != name}
    return {name: name for name in names}


def layer_numbers(names: Iterable[str], *, family: str) -> dict[str, int]:
    """Returns the layer of each parameter, as timm groups them for layer-wise decay.

    The stem is layer 0, each block one layer, the head the last. What joins two stages belongs to
    the block behind it, a last norm or convolution to the last block.

    Args:
      names: of all parameters.
      family: of the image model, `ModelSpec.family`.

    Note:
      Where timm itself differs from family to family so do we: of ConvNeXt the last norm counts to
      the head, of MobileNetV3 the last convolution is a layer, of PVTv2 a whole stage is one.
    """
    names = tuple(names)
    inside = trunk_names(names)
    keys = {n: _layer_key(inside[n], family) if n in inside else _HEAD_KEY for n in names}
    layers, number = {}, -1
    for key in sorted(set(keys.values())):
        if key != _LAST_BLOCK or number < 1:
            number += 1
        layers[key] = number
    return {name: layers[key] for name, key in keys.items()}


def _layer_key(name: str, family: str) -> tuple[int, ...]:
    """Returns what the layers are ordered by."""
    own, with_head = _OWN_LAYER.get(family), _WITH_HEAD.get(family)
    if HEAD.match(name) or (with_head and with_head.match(name)):
        return _HEAD_KEY
    if _STEM.match(name) or _FIRST_STEM.match(name):
        return _STEM_KEY
    stage = _STAGE.match(name)
    if stage and family in _ONE_LAYER_A_STAGE:
        return (1, int(stage[1]), 0)
    block = _BLOCK.match(name)
    if block:
        return (1, *(int(number) for number in block.groups() if number is not None))
    if stage:
        return (1, int(stage[1]), 0)
    return (1, 10**6) if own and own.match(name) else _LAST_BLOCK


def unit_numbers(names: Iterable[str]) -> tuple[dict[str, int], int]:
    """Returns the unit of each parameter, and how many there are.

    A unit is a stage, or a block of a model without stages. The stem is unit -1; what follows the
    last one has the number of units.
    """
    names = tuple(names)
    inside = trunk_names(names)
    found = {name: _UNIT.match(inner) for name, inner in inside.items()}
    units = {name: int(match[1]) for name, match in found.items() if match}
    count = max(units.values(), default=-1) + 1
    for name in names:
        stem = name in inside and _STEM.match(inside[name])
        units.setdefault(name, -1 if stem else count)
    return units, count


def is_head(names: Iterable[str]) -> dict[str, bool]:
    """Returns whether each parameter is in the head; of a captioner, in all but the encoder."""
    names = tuple(names)
    inside = trunk_names(names)
    return {name: name not in inside or HEAD.match(inside[name]) is not None for name in names}
