"""Names of a CLIP's and a SigLIP's weights in transformers and in open_clip.

open_clip has those of OpenAI where the image encoder is CLIP's own, and timm's behind
`visual.trunk` for any other.
"""

import dataclasses
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from jaxvision.errors import InputError
from jaxvision.interop.adapt import Source
from jaxvision.interop.captioner import torch_attention
from jaxvision.interop.rules import LINEAR, Rule, Transform, conv, linear, norm
from jaxvision.models.catalogue import get_spec
from jaxvision.models.image_text import ImageTextConfig

_TEXT, _IMAGE = "text/blocks/{i}", "encoder/blocks/{i}"
_WORDS, _PLACES = "text/embed/embedding", "text/embed/pos_embed"
_TABLE = Transform(lambda table: table[None], lambda table: table[0])  # one for a batch
_VECTOR = Transform(lambda vector: vector[None, None], lambda vector: vector[0, 0])
_NUMBER = Transform(lambda number: number.reshape(()), lambda number: number.reshape(1))
_SAME_NUMBER = Transform(lambda number: number.reshape(()), lambda number: number)

# --- transformers -------------------------------------------------------------------------------


def _hf_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *norm(f"{theirs}.layer_norm1", f"{ours}/norm1"),
        *linear(f"{theirs}.self_attn.q_proj", f"{ours}/attn/query"),
        *linear(f"{theirs}.self_attn.k_proj", f"{ours}/attn/key"),
        *linear(f"{theirs}.self_attn.v_proj", f"{ours}/attn/value"),
        *linear(f"{theirs}.self_attn.out_proj", f"{ours}/attn/out"),
        *norm(f"{theirs}.layer_norm2", f"{ours}/norm2"),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
    )


def _hf(config: ImageTextConfig) -> tuple[Rule, ...]:
    sigmoid = config.loss == "sigmoid"
    number = _NUMBER if sigmoid else _SAME_NUMBER
    pool = "vision_model.head"
    return (
        Rule("text_model.embeddings.token_embedding.weight", _WORDS),
        Rule("text_model.embeddings.position_embedding.weight", _PLACES, _TABLE),
        *_hf_block("text_model.encoder.layers.{i}", _TEXT),
        *norm("text_model.final_layer_norm", "text/norm"),
        *linear("text_model.head" if sigmoid else "text_projection", "text/head"),
        Rule("vision_model.embeddings.class_embedding", "encoder/cls_token", _VECTOR),
        *conv("vision_model.embeddings.patch_embedding", "encoder/patch_embed"),
        Rule("vision_model.embeddings.position_embedding.weight", "encoder/pos_embed", _TABLE),
        *norm("vision_model.pre_layrnorm", "encoder/norm_pre"),
        *_hf_block("vision_model.encoder.layers.{i}", _IMAGE),
        *norm("vision_model.post_layernorm", "encoder/norm"),
        Rule(f"{pool}.probe", "encoder/attn_pool/probe"),
        *torch_attention(f"{pool}.attention", "encoder/attn_pool/attn"),
        *norm(f"{pool}.layernorm", "encoder/attn_pool/norm"),
        *linear(f"{pool}.mlp.fc1", "encoder/attn_pool/mlp/fc1"),
        *linear(f"{pool}.mlp.fc2", "encoder/attn_pool/mlp/fc2"),
        Rule("visual_projection.weight", "image_head/kernel", LINEAR),
        Rule("logit_scale", "logit_scale", number),
        Rule("logit_bias", "logit_bias", number),
    )


# --- open_clip ----------------------------------------------------------------------------------


def _open_clip_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *norm(f"{theirs}.ln_1", f"{ours}/norm1"),
        *torch_attention(f"{theirs}.attn", f"{ours}/attn"),
        *norm(f"{theirs}.ln_2", f"{ours}/norm2"),
        *linear(f"{theirs}.mlp.c_fc", f"{ours}/mlp/fc1"),
        *linear(f"{theirs}.mlp.c_proj", f"{ours}/mlp/fc2"),
    )


def _open_clip_text(config: ImageTextConfig) -> tuple[Rule, ...]:
    # A SigLIP's text encoder is a module of its own, whose last layer has a bias.
    own = "text." if config.text_head_bias else ""
    head = (
        linear("text.text_projection", "text/head")
        if config.text_head_bias
        else (Rule("text_projection", "text/head/kernel"),)
    )
    return (
        Rule(f"{own}token_embedding.weight", _WORDS),
        Rule(f"{own}positional_embedding", _PLACES, _TABLE),
        *_open_clip_block(f"{own}transformer.resblocks.{{i}}", _TEXT),
        *norm(f"{own}ln_final", "text/norm"),
        *head,
    )


_OWN_IMAGE = (
    Rule("visual.class_embedding", "encoder/cls_token", _VECTOR),
    Rule("visual.positional_embedding", "encoder/pos_embed", _TABLE),
    *conv("visual.conv1", "encoder/patch_embed"),
    *norm("visual.ln_pre", "encoder/norm_pre"),
    *_open_clip_block("visual.transformer.resblocks.{i}", _IMAGE),
    *norm("visual.ln_post", "encoder/norm"),
    Rule("visual.proj", "image_head/kernel"),
)


def _open_clip(config: ImageTextConfig) -> tuple[Rule, ...]:
    options = dict(config.encoder_options)
    spec = get_spec(str(config.encoder)) if config.encoder else None
    own = spec is not None and options.get("pre_norm", getattr(spec.config, "pre_norm", False))
    if own or spec is None:
        image = _OWN_IMAGE
    else:
        image = _inside(_timm_rules(spec, options), "visual.trunk.", "encoder/")
        image += (Rule("visual.head.proj.weight", "image_head/kernel", LINEAR),)
    return (
        *_open_clip_text(config),
        *image,
        Rule("logit_scale", "logit_scale", _SAME_NUMBER),
        Rule("logit_bias", "logit_bias", _SAME_NUMBER),
    )


def _timm_rules(spec: Any, options: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Returns timm's table of an image encoder without a head."""
    module, _, name = str(spec.build.weight_sources).partition(":")
    source = getattr(importlib.import_module(module), name, {}).get("timm")
    if source is None:
        raise InputError(f"open_clip takes its trunks from timm, which has no {spec.name}.")
    return source.rules(dataclasses.replace(spec.config, **{"num_classes": 0} | dict(options)))


def _inside(rules: Iterable[Rule], theirs: str, ours: str) -> tuple[Rule, ...]:
    """Returns the rules of a module that is a part of another one on both sides."""

    def inside(rule: Rule) -> Rule:
        one = isinstance(rule.targets, str)
        targets = (rule.targets,) if isinstance(rule.targets, str) else rule.targets
        moved = tuple(f"{ours}{target}" for target in targets)
        return dataclasses.replace(
            rule,
            source=f"{theirs}{rule.source}",
            aliases=tuple(f"{theirs}{alias}" for alias in rule.aliases),
            targets=moved[0] if one else moved,
        )

    return tuple(map(inside, rules))


# --- all ----------------------------------------------------------------------------------------


def _unused(config: ImageTextConfig) -> tuple[str, ...]:
    """Returns what files hold beside weights: numbers of positions, sizes of OpenAI's archives."""
    del config
    return "*.position_ids", "input_resolution", "context_length", "vocab_size", "attn_mask"


SOURCES = {
    "hf": Source(rules=_hf, heads=(), classes=_WORDS, unused=_unused),
    "open_clip": Source(rules=_open_clip, heads=(), classes=_WORDS, unused=_unused),
}
