"""The real module of a model in timm, torchvision or transformers, without any download."""

import dataclasses
import warnings
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


def build_pair(name: str, library: str, *, height: int, width: int, dtype: str = "float64") -> Pair:
    """Returns the model of a library and ours with the same random weights, and 10 classes.

    Nothing is dropped in either, because the two libraries would draw other numbers.

    Args:
      name: Name of our model.
      library: Library of the peer: "timm", "torchvision" or "hf".
      height: Height of the images in pixels, where the model is built for a size.
      width: Width of the images in pixels, where the model is built for a size.
      dtype: Dtype of both models, "float64" or "float32".

    Raises:
      InputError: if the library has no such model, or its configuration is not known here.
    """
    spec = get_spec(name)
    if library not in spec.peers:
        if not spec.peers:
            raise InputError(f"{spec.name} has no peer: its ModelSpec names none.")
        known = ", ".join(spec.peers)
        raise InputError(
            f"{spec.name} has a peer in {known}, not in {library!r}: --against={known}."
        )
    fields = {field.name for field in dataclasses.fields(spec.config)}
    options: dict[str, Any] = {field: 0.0 for field in fields if field.endswith("_rate")}
    if "image_size" in fields:
        options["image_size"] = height if height == width else (height, width)
    if library == "hf" and spec.hf_peer is not None:
        options |= spec.hf_peer.options
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
    more = spec.torchvision_arguments(config) if spec.torchvision_arguments else {}
    name = str(spec.torchvision)
    return torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **more)


def _hf(spec: ModelSpec, config: Any) -> torch.nn.Module:
    peer = spec.hf_peer
    if peer is None:
        raise InputError(
            f"The transformers configuration of {spec.name} is not known here, its ModelSpec has "
            "no hf_peer: use another --against."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers  # seconds, which the other two need not wait

    fields = peer.fields(config) | {"num_labels": CLASSES}
    model = getattr(transformers, f"{peer.name}ForImageClassification")
    return model(getattr(transformers, f"{peer.name}Config")(**fields))


_BUILDERS = {"timm": _timm, "torchvision": _torchvision, "hf": _hf}


def has_peer(name: str, library: str) -> bool:
    """Returns whether `build_pair` can make this pair."""
    spec = get_spec(name)
    described = spec.hf_peer is not None or spec.task == "image_text"
    return library in spec.peers and (library != "hf" or described)
