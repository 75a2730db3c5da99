"""Names of the Vision Transformer's weights in timm and in torchvision."""

import functools

from jaxvision.interop.adapt import (
    Source,
    fit_channels,
    fit_positions,
    resize_as_timm,
    resize_as_torchvision,
)
from jaxvision.interop.rules import LINEAR, Rule, conv, linear, norm
from jaxvision.models.vit import ViTConfig


def _fused(part: str) -> tuple[str, ...]:
    """Returns our three paths that both libraries keep in one array, in this order."""
    return tuple(f"blocks/{{i}}/attn/{name}/{part}" for name in ("query", "key", "value"))


_BLOCK = "blocks/{i}"
_TIMM = (
    Rule("cls_token", "cls_token"),
    Rule("pos_embed", "pos_embed"),
    *conv("patch_embed.proj", "patch_embed"),
    *norm("blocks.{i}.norm1", f"{_BLOCK}/norm1"),
    Rule("blocks.{i}.attn.qkv.weight", _fused("kernel"), LINEAR),
    Rule("blocks.{i}.attn.qkv.bias", _fused("bias")),
    *linear("blocks.{i}.attn.proj", f"{_BLOCK}/attn/out"),
    Rule("blocks.{i}.ls1.gamma", f"{_BLOCK}/layer_scale1/gamma"),
    *norm("blocks.{i}.norm2", f"{_BLOCK}/norm2"),
    *linear("blocks.{i}.mlp.fc1", f"{_BLOCK}/mlp/fc1"),
    *linear("blocks.{i}.mlp.fc2", f"{_BLOCK}/mlp/fc2"),
    Rule("blocks.{i}.ls2.gamma", f"{_BLOCK}/layer_scale2/gamma"),
    *linear("head", "head"),
)


def _timm(config: ViTConfig) -> tuple[Rule, ...]:
    # timm names the last norm after its place: before or behind the pooling.
    return *_TIMM, *norm("norm" if config.pool == "token" else "fc_norm", "norm")


_LAYER = "encoder.layers.encoder_layer_{i}"


def _mlp(layer: int, old: str, ours: str) -> tuple[Rule, ...]:
    """Returns a layer of torchvision's MLP, whose published files still have the old names."""
    new, old = f"{_LAYER}.mlp.{layer}", f"{_LAYER}.mlp.{old}"
    return (
        Rule(f"{new}.weight", f"{_BLOCK}/mlp/{ours}/kernel", LINEAR, (f"{old}.weight",)),
        Rule(f"{new}.bias", f"{_BLOCK}/mlp/{ours}/bias", aliases=(f"{old}.bias",)),
    )


_TORCHVISION = (
    Rule("class_token", "cls_token"),
    Rule("encoder.pos_embedding", "pos_embed"),
    *conv("conv_proj", "patch_embed"),
    *norm(f"{_LAYER}.ln_1", f"{_BLOCK}/norm1"),
    Rule(f"{_LAYER}.self_attention.in_proj_weight", _fused("kernel"), LINEAR),
    Rule(f"{_LAYER}.self_attention.in_proj_bias", _fused("bias")),
    *linear(f"{_LAYER}.self_attention.out_proj", f"{_BLOCK}/attn/out"),
    *norm(f"{_LAYER}.ln_2", f"{_BLOCK}/norm2"),
    *_mlp(0, "linear_1", "fc1"),
    *_mlp(3, "linear_2", "fc2"),
    *norm("encoder.ln", "norm"),
    *linear("heads.head", "head"),
)

SOURCES = {
    "timm": Source(
        rules=_timm,
        requires={"position": "learned", "stem": "patch"},
        fits={
            "patch_embed/kernel": fit_channels,
            "pos_embed": functools.partial(fit_positions, resize=resize_as_timm),
        },
    ),
    "torchvision": Source(
        rules=lambda config: _TORCHVISION,
        requires={
            "position": "learned",
            "stem": "patch",
            "pool": "token",
            "layer_scale_init": None,
        },
        fits={
            "patch_embed/kernel": fit_channels,
            "pos_embed": functools.partial(fit_positions, resize=resize_as_torchvision),
        },
    ),
}
