"""Names of the ResNet's weights, the same in torchvision and timm, and others in transformers."""

from jaxvision.interop.adapt import Source, fit_channels
from jaxvision.interop.rules import Rule, batch_norm, conv, linear, or_bare

_THEIRS, _OURS = "layer{stage+1}.{i}", "stages/{stage}/{i}"
_RULES = (
    *conv("conv1", "stem/conv"),
    *batch_norm("bn1", "stem/norm"),
    *conv(f"{_THEIRS}.conv{{n}}", f"{_OURS}/conv{{n}}"),
    *batch_norm(f"{_THEIRS}.bn{{n}}", f"{_OURS}/norm{{n}}"),
    *conv(f"{_THEIRS}.downsample.0", f"{_OURS}/downsample/conv"),
    *batch_norm(f"{_THEIRS}.downsample.1", f"{_OURS}/downsample/norm"),
    *linear("fc", "head"),
)
_SOURCE = Source(
    rules=lambda config: _RULES,
    requires={"plain": False},
    fits={"stem/conv/kernel": fit_channels},
)

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
        *linear("classifier.1", "head"),
    ),
    "resnet.",
)

SOURCES = {
    "torchvision": _SOURCE,
    "timm": _SOURCE,
    "hf": Source(
        rules=lambda config: _HF,
        requires={
            "plain": False,
            "stem": "imagenet",
            "groups": 1,
            "base_width": 64,
            "norm_eps": 1e-5,
            "norm_momentum": 0.1,
        },
        fits={"stem/conv/kernel": fit_channels},
    ),
}
