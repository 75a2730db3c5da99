"""Names of the hybrid Vision Transformer's weights in timm and in Google's .npz files.

Google's code standardises a kernel by deviation + 1e-5 and has 1e-6 in its group norms; timm loads
those files with 1e-8 in the variance and 1e-5, and so do we.
"""

from jaxvision.interop import augreg
from jaxvision.interop.adapt import Source, resize_as_augreg, resize_as_timm
from jaxvision.interop.rules import CONV, Rule, norm
from jaxvision.interop.vit import PLAIN, fits, timm_rules, timm_source
from jaxvision.models.hybrid_vit import HybridViTConfig

_BLOCK = "patch_embed/stages/{stage}/{i}"
_FIRST_KERNEL = "patch_embed/stem/conv/kernel"


def _timm(config: HybridViTConfig) -> tuple[Rule, ...]:
    rules = tuple(rule for rule in timm_rules(config) if "patch_embed" not in rule.source)
    backbone = "patch_embed.backbone"
    # Without stages timm's backbone is the stem itself.
    stem = f"{backbone}.stem" if config.stage_depths else backbone
    block = f"{backbone}.stages.{{stage}}.blocks.{{i}}"
    return (
        *rules,
        Rule("patch_embed.proj.weight", "patch_embed/proj/kernel", CONV),
        Rule("patch_embed.proj.bias", "patch_embed/proj/bias"),
        Rule(f"{stem}.conv.weight", _FIRST_KERNEL, CONV),
        *norm(f"{stem}.norm", "patch_embed/stem/norm"),
        Rule(f"{block}.conv{{n}}.weight", f"{_BLOCK}/conv{{n}}/kernel", CONV),
        *norm(f"{block}.norm{{n}}", f"{_BLOCK}/norm{{n}}"),
        Rule(f"{block}.downsample.conv.weight", f"{_BLOCK}/downsample/conv/kernel", CONV),
        *norm(f"{block}.downsample.norm", f"{_BLOCK}/downsample/norm"),
    )


def _augreg(config: HybridViTConfig) -> tuple[Rule, ...]:
    unit = "block{stage+1}/unit{i+1}"
    pairs = (
        ("conv_root/kernel", _FIRST_KERNEL),
        ("gn_root/{part}", "patch_embed/stem/norm/{part}"),
        (f"{unit}/conv{{n}}/kernel", f"{_BLOCK}/conv{{n}}/kernel"),
        (f"{unit}/gn{{n}}/{{part}}", f"{_BLOCK}/norm{{n}}/{{part}}"),
        (f"{unit}/conv_proj/kernel", f"{_BLOCK}/downsample/conv/kernel"),
        (f"{unit}/gn_proj/{{part}}", f"{_BLOCK}/downsample/norm/{{part}}"),
    )
    rules = tuple(
        Rule(theirs.replace("{part}", part), ours.replace("{part}", part))
        for theirs, ours in pairs
        for part in (("scale", "bias") if "{part}" in ours else ("",))
    )
    return *augreg.rules(config, patches="patch_embed/proj"), *rules


SOURCES = {
    "timm": timm_source(
        _timm,
        requires={"position": "learned", "stem": "resnet"},
        fits=fits(resize_as_timm, _FIRST_KERNEL),
        beside_head=("head.weight", "head.bias"),
    ),
    "augreg": Source(
        rules=_augreg,
        requires={**PLAIN, "stem": "resnet", "head_hidden": 0},
        usual={"norm_eps": 1e-6},
        fits=fits(resize_as_augreg, _FIRST_KERNEL, method="bilinear"),
        beside_head=augreg.PRE_LOGITS,
        prepare=augreg.without_empty_axes,
    ),
}
