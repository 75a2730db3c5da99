"""Names of the ConvNeXt's weights in timm, torchvision and Hugging Face."""

from collections.abc import Callable
from typing import Any

from jaxvision.interop.adapt import Source, fit_channels
from jaxvision.interop.rules import (
    SAME,
    Rule,
    Transform,
    conv,
    linear,
    norm,
    or_as,
    or_bare,
    unflattened,
)
from jaxvision.models.convnext import ConvNeXtConfig

_BLOCK = "stages/{stage}/blocks/{i}"


def _block(
    theirs: str, ours: str, *, names: tuple[str, str, str, str, str], scale: Transform = SAME
) -> tuple[Rule, ...]:
    """Returns the rules of a block whose parts another library names so, in our order."""
    convolution, layer_norm, fc1, fc2, gamma = (f"{theirs}.{name}" for name in names)
    return (
        *conv(convolution, f"{ours}/conv"),
        *norm(layer_norm, f"{ours}/norm"),
        *linear(fc1, f"{ours}/mlp/fc1"),
        *linear(fc2, f"{ours}/mlp/fc2"),
        Rule(gamma, f"{ours}/layer_scale/gamma", scale),
    )


def _downsample(theirs: str, ours: str) -> tuple[Rule, ...]:
    return *norm(f"{theirs}.0", f"{ours}/downsample/norm"), *conv(
        f"{theirs}.1", f"{ours}/downsample/proj"
    )


_TIMM = (
    *conv("stem.0", "stem"),
    *norm("stem.1", "stem_norm"),
    *_downsample("stages.{stage}.downsample", "stages/{stage}"),
    *_block(
        "stages.{stage}.blocks.{i}",
        _BLOCK,
        names=("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma"),
    ),
    *norm("head.norm", "norm"),
    *linear("head.fc", "head"),
)
# The authors' files, whose convolutions between the stages have a list of their own.
_FACEBOOK = (
    *conv("downsample_layers.0.0", "stem"),
    *norm("downsample_layers.0.1", "stem_norm"),
    *_downsample("downsample_layers.{stage}", "stages/{stage}"),
    *_block(
        "stages.{stage}.{i}",
        _BLOCK,
        names=("dwconv", "norm", "pwconv1", "pwconv2", "gamma"),
    ),
    *norm("norm", "norm"),
    *linear("head", "head"),
)
_TIMM_OR_FACEBOOK = or_as(_TIMM, _FACEBOOK)
_HF_STAGE = "convnext.encoder.stages.{stage}"
_HF = or_bare(
    (
        *conv("convnext.embeddings.patch_embeddings", "stem"),
        *norm("convnext.embeddings.layernorm", "stem_norm"),
        *_downsample(f"{_HF_STAGE}.downsampling_layer", "stages/{stage}"),
        *_block(
            f"{_HF_STAGE}.layers.{{i}}",
            _BLOCK,
            names=("dwconv", "layernorm", "pwconv1", "pwconv2", "layer_scale_parameter"),
        ),
        *norm("convnext.layernorm", "norm"),
        *linear("classifier", "head"),
    ),
    "convnext.",
)
_COLUMN = Transform(lambda a: a.reshape(-1), lambda a: a.reshape(-1, 1, 1))  # (C, 1, 1) <-> (C,)


def _torchvision(config: ConvNeXtConfig) -> tuple[Rule, ...]:
    rules = [*conv("features.0.0", "stem"), *norm("features.0.1", "stem_norm")]
    for s in range(len(config.stage_depths)):
        # Stem, blocks of the first stage, downsampling, blocks of the second, ...
        if s:
            rules += _downsample(f"features.{2 * s}", f"stages/{s}")
        rules += _block(
            f"features.{2 * s + 1}.{{i}}",
            f"stages/{s}/blocks/{{i}}",
            names=("block.0", "block.2", "block.3", "block.5", "layer_scale"),
            scale=_COLUMN,
        )
    return *rules, *norm("classifier.0", "norm"), *linear("classifier.2", "head")


_FITS = {"stem/kernel": fit_channels}


def _one_eps(rules: Callable[[ConvNeXtConfig], tuple[Rule, ...]], **fields: Any) -> Source:
    """Returns the source of a library that takes one epsilon for all norms."""
    return Source(
        rules=rules,
        requires={"head_norm_eps": lambda config: config.norm_eps},
        usual={"norm_eps": 1e-6},
        fits=_FITS,
        **fields,
    )


SOURCES = {
    "timm": _one_eps(lambda config: _TIMM_OR_FACEBOOK, end=("norm",), prepare=unflattened),
    "torchvision": _one_eps(_torchvision),
    "hf": Source(
        rules=lambda config: _HF,
        requires={"norm_eps": 1e-6},
        usual={"head_norm_eps": 1e-12},
        fits=_FITS,
    ),
}
