"""The real module of a model in timm, torchvision or transformers, without any download."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import torch

from jaxvision.errors import InputError
from jaxvision.models.registry import get_spec
from jaxvision.models.spec import ModelSpec
from jaxvision.parity import torchvision_import as parity_torchvision  # noqa: F401 - before torchvision itself
from jaxvision.parity.pair import CLASSES, Pair, make_pair

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import timm
    import torchvision
    import transformers


def build_pair(name: str, library: str, *, height: int, width: int, dtype: str = "float64") -> Pair:
    """Returns the model of a library and ours with the same random weights, and 10 classes.

    Nothing is dropped in either, because the two libraries would draw other numbers.

    Args:
      name: of our model.
      library: "timm", "torchvision" or "hf".
      height: of the images in pixels, where the model is built for a size.
      width: of the images in pixels.
      dtype: "float64" or "float32".

    Raises:
      InputError: if the library has no such model, or its configuration is not known here.
    """
    spec = get_spec(name)
    if library not in spec.peers:
        known = ", ".join(spec.peers) or "no library"
        raise InputError(
            f"{spec.name} has a peer in {known}, not in {library!r}: --against={known}."
        )
    fields = {field.name for field in dataclasses.fields(spec.config)}
    options: dict[str, Any] = {field: 0.0 for field in fields if field.endswith("_rate")}
    if "image_size" in fields:
        options["image_size"] = height if height == width else (height, width)
    if library == "hf" and spec.family in _HF:
        options |= _HF[spec.family].ours
    config = dataclasses.replace(spec.config, num_classes=CLASSES, **options)
    peer = _BUILDERS[library](spec, config)
    drop_nothing(peer)
    return make_pair(peer, spec.name, source=library, dtype=dtype, **options)


def drop_nothing(peer: torch.nn.Module) -> None:
    """Sets the rates of dropout and drop path to 0 wherever a module keeps one."""
    for module in peer.modules():
        for rate in ("p", "drop_prob", "drop_rate"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)


def _timm(spec: ModelSpec, config: Any) -> torch.nn.Module:
    sizes = {"img_size": config.image_size} if hasattr(config, "image_size") else {}
    return timm.create_model(str(spec.timm), num_classes=CLASSES, **sizes)


def _torchvision(spec: ModelSpec, config: Any) -> torch.nn.Module:
    name, options = str(spec.torchvision), {"num_classes": CLASSES}
    if spec.family != "vit":  # the others are fully convolutional or pad their windows
        return torchvision.models.get_model(name, weights=None, **options)
    return torchvision.models.get_model(name, weights=None, image_size=config.image_size, **options)


@dataclasses.dataclass(frozen=True)
class _Family:
    """How transformers describes a family.

    Attributes:
      name: of its classes, less "Config" and "ForImageClassification".
      fields: our config -> its fields there.
      ours: options of our model that are not a part of its config there.
    """

    name: str
    fields: Callable[[Any], dict[str, Any]]
    ours: dict[str, Any] = dataclasses.field(default_factory=dict)


def _vit(config: Any) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": int(config.width * config.mlp_ratio),
        "patch_size": config.patch_size,
        "image_size": config.image_size,
        "layer_norm_eps": config.norm_eps,
    }


def _resnet(config: Any) -> dict[str, Any]:
    return {
        "embedding_size": config.stem_width,
        "hidden_sizes": [width * config.expansion for width in config.stage_widths],
        "depths": config.stage_depths,
        "layer_type": config.block,
    }


def _convnext(config: Any) -> dict[str, Any]:
    return {"hidden_sizes": config.stage_widths, "depths": config.stage_depths}


def _pyramid(config: Any) -> dict[str, Any]:
    return {
        "hidden_sizes": config.stage_widths,
        "depths": config.stage_depths,
        "num_attention_heads": config.stage_heads,
        "mlp_ratios": config.mlp_ratios,
    }


def _pvt(config: Any) -> dict[str, Any]:
    reductions = {"sequence_reduction_ratios": config.reduction_ratios}
    return _pyramid(config) | reductions | {"image_size": config.image_size}


def _pvt_v2(config: Any) -> dict[str, Any]:
    reductions = {"sr_ratios": config.reduction_ratios}
    return _pyramid(config) | reductions | {"linear_attention": config.linear_attention}


def _swin(config: Any) -> dict[str, Any]:
    return {
        "image_size": config.image_size,
        "embed_dim": config.width,
        "depths": config.stage_depths,
        "num_heads": config.stage_heads,
        "window_size": config.window_size,
        "drop_path_rate": 0.0,
    }


def _mobilenet(config: Any) -> dict[str, Any]:
    return {"depth_multiplier": config.width, "classifier_dropout_prob": 0.0}


_HF = {
    "vit": _Family("ViT", _vit),
    "resnet": _Family("ResNet", _resnet),
    "convnext": _Family("ConvNext", _convnext),
    "pvt": _Family("Pvt", _pvt),
    "pvt_v2": _Family("PvtV2", _pvt_v2),
    "swin": _Family("Swin", _swin),
    # Its momentum is TensorFlow's, taken for torch's.
    "mobilenet_v1": _Family("MobileNetV1", _mobilenet, {"norm_momentum": 0.9997}),
    "mobilenet_v2": _Family("MobileNetV2", _mobilenet, {"norm_momentum": 0.997}),
}


def _hf(spec: ModelSpec, config: Any) -> torch.nn.Module:
    if spec.family not in _HF:
        raise InputError(
            f"The transformers configuration of {spec.family} is not known to this command, only "
            f"those of {', '.join(sorted(_HF))}: use another --against."
        )
    family = _HF[spec.family]
    fields = family.fields(config) | {"num_labels": CLASSES}
    model = getattr(transformers, f"{family.name}ForImageClassification")
    return model(getattr(transformers, f"{family.name}Config")(**fields))


_BUILDERS = {"timm": _timm, "torchvision": _torchvision, "hf": _hf}


def has_peer(name: str, library: str) -> bool:
    """Returns whether `build_pair` can make this pair."""
    spec = get_spec(name)
    return library in spec.peers and (library != "hf" or spec.family in _HF)
