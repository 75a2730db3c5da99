"""Names of the EfficientNet's weights in timm, torchvision, transformers and efficientnet-pytorch.

transformers pads with the zeros that SAME needs at the published image size, whatever the image; at
another size it may pad elsewhere. Its batch norms have TensorFlow's momentum, see `mobilenet`.

The packages efficientnet-pytorch (B0 to B7) and efficientnet-lite-pytorch (Lite0 to Lite4) share
one table of names and pad like transformers, so that their weights belong to the models with `tf_`.
With the published weights of Lite0 and Lite1, and random images of the published size, the logits
differ by 8e-6, of 7 at most; with symmetric padding by more than 3.
"""

from jaxvision.interop.adapt import Source
from jaxvision.interop.mobilenet import (
    FITS,
    TENSORFLOW,
    BlockNames,
    block_rules,
    conv_norm,
    expands,
    timm_rules,
    timm_source,
    torchvision_names,
)
from jaxvision.interop.rules import Rule, linear, or_bare
from jaxvision.models.efficientnet import EfficientNetConfig
from jaxvision.models.mobilenet import Block


def _torchvision(config: EfficientNetConfig) -> tuple[Rule, ...]:
    last = f"features.{len(config.stages()) + 1}"
    return (
        *conv_norm(("features.0.0", "features.0.1"), "stem"),
        *block_rules(
            config,
            lambda stage, before, block: torchvision_names(
                f"features.{stage + 1}.{{i}}.block", block
            ),
        ),
        *conv_norm((f"{last}.0", f"{last}.1"), "last_conv"),
        *linear("classifier.1", "head"),
    )


def _hf_names(stage: int, before: int, block: Block) -> BlockNames:
    del stage
    at = f"efficientnet.encoder.blocks.{{i+{before}}}"
    squeeze = f"{at}.squeeze_excite"
    return BlockNames(
        expand=(f"{at}.expansion.expand_conv", f"{at}.expansion.expand_bn")
        if expands(block)
        else None,
        depthwise=(
            f"{at}.depthwise_conv.depthwise_conv",
            f"{at}.depthwise_conv.depthwise_norm",
        ),
        squeeze=(f"{squeeze}.reduce", f"{squeeze}.expand") if block.squeezed_channels else None,
        project=(f"{at}.projection.project_conv", f"{at}.projection.project_bn"),
    )


def _hf(config: EfficientNetConfig) -> tuple[Rule, ...]:
    stem, encoder = "efficientnet.embeddings", "efficientnet.encoder"
    rules = (
        *conv_norm((f"{stem}.convolution", f"{stem}.batchnorm"), "stem"),
        *block_rules(config, _hf_names),
        *conv_norm((f"{encoder}.top_conv", f"{encoder}.top_bn"), "last_conv"),
        *linear("classifier", "head"),
    )
    return or_bare(rules, "efficientnet.")


def _pytorch_names(stage: int, before: int, block: Block) -> BlockNames:
    del stage
    at = f"_blocks.{{i+{before}}}"
    return BlockNames(
        expand=(f"{at}._expand_conv", f"{at}._bn0") if expands(block) else None,
        depthwise=(f"{at}._depthwise_conv", f"{at}._bn1"),
        squeeze=(f"{at}._se_reduce", f"{at}._se_expand") if block.squeezed_channels else None,
        project=(f"{at}._project_conv", f"{at}._bn2"),
    )


def _pytorch(config: EfficientNetConfig) -> tuple[Rule, ...]:
    return (
        *conv_norm(("_conv_stem", "_bn0"), "stem"),
        *block_rules(config, _pytorch_names),
        *conv_norm(("_conv_head", "_bn1"), "last_conv"),
        *linear("_fc", "head"),
    )


def _torchvision_eps(config: EfficientNetConfig) -> float:
    """Returns the epsilon of b0 to b4, which came from timm, or of b5 to b7, from TensorFlow."""
    return 1e-3 if config.width > 1.5 else 1e-5


SOURCES = {
    "torchvision": Source(
        rules=_torchvision,
        requires={"padding": "symmetric", "scale_ends": True, "norm_eps": _torchvision_eps},
        fits=FITS,
    ),
    "timm": timm_source(timm_rules),
    "hf": Source(
        rules=_hf,
        requires={"scale_ends": True, **TENSORFLOW},
        usual={"norm_momentum": 0.99},
        fits=FITS,
    ),
    "efficientnet_pytorch": Source(
        rules=_pytorch,
        requires=TENSORFLOW,
        usual={"norm_momentum": 0.01},
        fits=FITS,
    ),
}
