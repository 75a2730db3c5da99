"""Names of the MobileNets' weights in timm, torchvision and transformers.

transformers took the momentum of its batch norms over from TensorFlow, where it weighs the old
value: 0.9997 there means that the running statistics are those of the last batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxvision.interop.adapt import Source, fit_channels
from jaxvision.interop.rules import Rule, Transform, batch_norm, conv, linear, or_bare
from jaxvision.models.mobilenet import Block, MobileNetConfig

FITS = {"stem/conv/kernel": fit_channels}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockNames:
    """What a library calls the parts of a block.

    Attributes:
      expand: Names of the expansion's convolution and norm; None: the block does not expand.
      depthwise: Names of the depthwise convolution and its norm.
      project: Names of the projection's convolution and norm.
      squeeze: Names of the two layers of the squeeze-and-excitation; None: the block has none.
    """

    expand: tuple[str, str] | None = None
    depthwise: tuple[str, str]
    project: tuple[str, str]
    squeeze: tuple[str, str] | None = None


def conv_norm(names: tuple[str, str] | None, ours: str) -> tuple[Rule, ...]:
    """Returns the rules of a convolution and the batch norm behind it."""
    if names is None:
        return ()
    return *conv(names[0], f"{ours}/conv"), *batch_norm(names[1], f"{ours}/norm")


def block_rules(
    config: MobileNetConfig, names: Callable[[int, int, Block], BlockNames]
) -> tuple[Rule, ...]:
    """Returns the rules of all blocks.

    Args:
      config: Config of the model.
      names: Function (stage, blocks before the stage, a block of it) -> names of the block; `{i}`
        is the number of the block in its stage. All blocks of a stage have the same parts.
    """
    rules, before = [], 0
    for stage, blocks in enumerate(config.stages()):
        ours, theirs = f"stages/{stage}/{{i}}", names(stage, before, blocks[0])
        rules += conv_norm(theirs.expand, f"{ours}/expand")
        rules += conv_norm(theirs.depthwise, f"{ours}/depthwise")
        rules += conv_norm(theirs.project, f"{ours}/project")
        if theirs.squeeze is not None:
            rules += conv(theirs.squeeze[0], f"{ours}/squeeze_excite/reduce")
            rules += conv(theirs.squeeze[1], f"{ours}/squeeze_excite/expand")
        before += len(blocks)
    return tuple(rules)


def expands(block: Block) -> bool:
    """Returns whether a block has a first 1x1 convolution."""
    return block.expanded_channels != block.in_channels


# --- timm: one class for V1, V2 and EfficientNet, another for V3 ----------------------------------


def _timm_names(stage: int, before: int, block: Block) -> BlockNames:
    del before
    at = f"blocks.{stage}.{{i}}"
    squeeze = (f"{at}.se.conv_reduce", f"{at}.se.conv_expand") if block.squeezed_channels else None
    if not expands(block):
        return BlockNames(
            depthwise=(f"{at}.conv_dw", f"{at}.bn1"),
            project=(f"{at}.conv_pw", f"{at}.bn2"),
            squeeze=squeeze,
        )
    return BlockNames(
        expand=(f"{at}.conv_pw", f"{at}.bn1"),
        depthwise=(f"{at}.conv_dw", f"{at}.bn2"),
        project=(f"{at}.conv_pwl", f"{at}.bn3"),
        squeeze=squeeze,
    )


def _timm_trunk(config: MobileNetConfig) -> tuple[Rule, ...]:
    return (
        *conv_norm(("conv_stem", "bn1"), "stem"),
        *block_rules(config, _timm_names),
        *linear("classifier", "head"),
    )


def timm_rules(config: MobileNetConfig) -> tuple[Rule, ...]:
    """Returns timm's table for V1, V2 and EfficientNet."""
    return *_timm_trunk(config), *conv_norm(("conv_head", "bn2"), "last_conv")


# The hidden layer is a 1x1 convolution in timm: OI11 <-> IO.
_POINTWISE = Transform(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])


def _timm_v3(config: MobileNetConfig) -> tuple[Rule, ...]:
    last = f"blocks.{len(config.stages())}.0"
    return (
        *_timm_trunk(config),
        *conv_norm((f"{last}.conv", f"{last}.bn1"), "last_conv"),
        Rule("conv_head.weight", "hidden/kernel", _POINTWISE),
        Rule("conv_head.bias", "hidden/bias"),
    )


def timm_eps(config: MobileNetConfig) -> float:
    """Returns the only epsilon that timm has with a padding: TensorFlow's come together."""
    return 1e-3 if config.padding == "same" else 1e-5


def timm_source(rules: Callable[[Any], tuple[Rule, ...]]) -> Source:
    """Returns how timm keeps one of these families."""
    return Source(
        rules=rules,
        requires={"norm_eps": timm_eps},
        usual={"norm_momentum": 0.1},
        fits=FITS,
        end=("last_conv", "hidden"),
    )


# --- torchvision ----------------------------------------------------------------------------------


def _torchvision_v2(config: MobileNetConfig) -> tuple[Rule, ...]:
    def names(stage: int, before: int, block: Block) -> BlockNames:
        del stage
        at = f"features.{{i+{before + 1}}}.conv"
        if not expands(block):
            return BlockNames(depthwise=(f"{at}.0.0", f"{at}.0.1"), project=(f"{at}.1", f"{at}.2"))
        return BlockNames(
            expand=(f"{at}.0.0", f"{at}.0.1"),
            depthwise=(f"{at}.1.0", f"{at}.1.1"),
            project=(f"{at}.2", f"{at}.3"),
        )

    last = f"features.{sum(map(len, config.stages())) + 1}"
    return (
        *conv_norm(("features.0.0", "features.0.1"), "stem"),
        *block_rules(config, names),
        *conv_norm((f"{last}.0", f"{last}.1"), "last_conv"),
        *linear("classifier.1", "head"),
    )


def torchvision_names(at: str, block: Block) -> BlockNames:
    """Returns the names of a block of V3 or EfficientNet: its parts are numbered.

    Args:
      at: Name of the list of parts.
      block: Block of the stage.
    """
    count = 2 + expands(block) + (block.squeezed_channels > 0)
    parts = [(f"{at}.{j}.0", f"{at}.{j}.1") for j in range(count)]
    squeeze = f"{at}.{count - 2}"
    return BlockNames(
        expand=parts[0] if expands(block) else None,
        depthwise=parts[1] if expands(block) else parts[0],
        squeeze=(f"{squeeze}.fc1", f"{squeeze}.fc2") if block.squeezed_channels else None,
        project=parts[-1],
    )


def _torchvision_v3(config: MobileNetConfig) -> tuple[Rule, ...]:
    last = f"features.{sum(map(len, config.stages())) + 1}"
    return (
        *conv_norm(("features.0.0", "features.0.1"), "stem"),
        *block_rules(
            config,
            lambda stage, before, block: torchvision_names(
                f"features.{{i+{before + 1}}}.block", block
            ),
        ),
        *conv_norm((f"{last}.0", f"{last}.1"), "last_conv"),
        *linear("classifier.0", "hidden"),
        *linear("classifier.3", "head"),
    )


# --- transformers ---------------------------------------------------------------------------------


def _hf_layer(name: str) -> tuple[str, str]:
    return f"{name}.convolution", f"{name}.normalization"


def _hf_v1(config: MobileNetConfig) -> tuple[Rule, ...]:
    rules = [*conv_norm(_hf_layer("mobilenet_v1.conv_stem"), "stem")]
    places = [(s, i) for s, blocks in enumerate(config.stages()) for i in range(len(blocks))]
    for n, (stage, i) in enumerate(places):
        for half, part in enumerate(("depthwise", "project")):
            names = _hf_layer(f"mobilenet_v1.layer.{2 * n + half}")
            rules += conv_norm(names, f"stages/{stage}/{i}/{part}")
    return or_bare((*rules, *linear("classifier", "head")), "mobilenet_v1.")


def _hf_v2(config: MobileNetConfig) -> tuple[Rule, ...]:
    def names(stage: int, before: int, block: Block) -> BlockNames:
        del block
        # The first block belongs to the stem.
        at = f"mobilenet_v2.layer.{{i+{before - 1}}}" if stage else "mobilenet_v2.conv_stem"
        return BlockNames(
            expand=_hf_layer(f"{at}.expand_1x1"),
            depthwise=_hf_layer(f"{at}.conv_3x3"),
            project=_hf_layer(f"{at}.reduce_1x1"),
        )

    rules = (
        *conv_norm(_hf_layer("mobilenet_v2.conv_stem.first_conv"), "stem"),
        *block_rules(config, names),
        *conv_norm(_hf_layer("mobilenet_v2.conv_1x1"), "last_conv"),
        *linear("classifier", "head"),
    )
    return or_bare(rules, "mobilenet_v2.")


TENSORFLOW = {"padding": "same", "norm_eps": 1e-3}

V1_SOURCES = {
    "timm": timm_source(timm_rules),
    "hf": Source(rules=_hf_v1, requires=TENSORFLOW, usual={"norm_momentum": 0.9997}, fits=FITS),
}
V2_SOURCES = {
    "torchvision": Source(
        rules=_torchvision_v2,
        requires={"padding": "symmetric", "norm_eps": 1e-5},
        usual={"norm_momentum": 0.1},
        fits=FITS,
    ),
    "timm": timm_source(timm_rules),
    "hf": Source(rules=_hf_v2, requires=TENSORFLOW, usual={"norm_momentum": 0.997}, fits=FITS),
}
V3_SOURCES = {
    "torchvision": Source(
        rules=_torchvision_v3,
        requires={"padding": "symmetric", "norm_eps": 1e-3},
        usual={"norm_momentum": 0.01},
        fits=FITS,
    ),
    "timm": timm_source(_timm_v3),
}
