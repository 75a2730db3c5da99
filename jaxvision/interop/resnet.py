"""Names of the ResNet's weights, the same in torchvision and timm, and others in transformers.

Programs for CIFAR-10 have names of their own: those of akamaster/pytorch_resnet_cifar10, which are
also those of kuangliu/pytorch-cifar. chenyaofo/pytorch-cifar-models names as torchvision does.
"""

from typing import Any

from jaxvision.interop.adapt import Source, fit_channels
from jaxvision.interop.rules import Rule, batch_norm, classifier, conv, or_bare

_THEIRS, _OURS = "layer{stage+1}.{i}", "stages/{stage}/{i}"


def _trunk(downsample: str) -> tuple[Rule, ...]:
    return (
        *conv("conv1", "stem/conv"),
        *batch_norm("bn1", "stem/norm"),
        *conv(f"{_THEIRS}.conv{{n}}", f"{_OURS}/conv{{n}}"),
        *batch_norm(f"{_THEIRS}.bn{{n}}", f"{_OURS}/norm{{n}}"),
        *conv(f"{_THEIRS}.{downsample}.0", f"{_OURS}/downsample/conv"),
        *batch_norm(f"{_THEIRS}.{downsample}.1", f"{_OURS}/downsample/norm"),
    )


def _source(trunk: tuple[Rule, ...], head: str, **requires: Any) -> Source:
    return Source(
        rules=lambda config: (*trunk, *classifier(head, config.head_hidden)),
        requires={"plain": False, **requires},
        fits={"stem/conv/kernel": fit_channels},
        beside_head=(f"{head}.weight", f"{head}.bias"),
    )


_TORCHVISION = _source(_trunk("downsample"), "fc", shortcut="projection")
_LAYER = "resnet.encoder.stages.{stage}.layers.{i}"


def _hf_conv(theirs: str, conv_path: str, norm_path: str) -> tuple[Rule, ...]:
    return (
        *conv(f"{theirs}.convolution", conv_path),
        *batch_norm(f"{theirs}.normalization", norm_path),
    )


_HF = or_bare(
    (
        *_hf_conv("resnet.embedder.embedder", "stem/conv", "stem/norm"),
        *_hf_conv(f"{_LAYER}.layer.0", f"{_OURS}/conv1", f"{_OURS}/norm1"),
        *_hf_conv(f"{_LAYER}.layer.1", f"{_OURS}/conv2", f"{_OURS}/norm2"),
        *_hf_conv(f"{_LAYER}.layer.2", f"{_OURS}/conv3", f"{_OURS}/norm3"),
        *_hf_conv(f"{_LAYER}.shortcut", f"{_OURS}/downsample/conv", f"{_OURS}/downsample/norm"),
    ),
    "resnet.",
)

SOURCES = {
    "torchvision": _TORCHVISION,
    "timm": _TORCHVISION,
    "hf": _source(
        _HF,
        "classifier.1",
        shortcut="projection",
        stem="imagenet",
        groups=1,
        base_width=64,
        norm_eps=1e-5,
        norm_momentum=0.1,
    ),
    "akamaster": _source(_trunk("shortcut"), "linear", stem="cifar"),
}
