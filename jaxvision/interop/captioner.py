"""Names of a captioner's weights in the course CS231n, in PyTorch, and in transformers.

The course's module and the usual module around `torch.nn.TransformerDecoder` differ in the layers
only: here the latter is called `transformer` too. transformers has its TrOCR decoder in mind.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxvision.interop.adapt import Source
from jaxvision.interop.rules import LINEAR, Rule, Transform, linear, norm
from jaxvision.layers.position import sinusoids
from jaxvision.models.captioner import CaptionerConfig

_OURS = "decoder/layers/{i}"
_EMBEDDING, _POSITIONS = "decoder/embed/embedding", "decoder/embed/pos_embed"

# --- CS231n and PyTorch -------------------------------------------------------------------------

_LAYER = "transformer.layers.{i}"


def _also(rules: tuple[Rule, ...], name: str, other: str) -> tuple[Rule, ...]:
    """Returns the rules, which also read files that say `other` for `name`."""
    return tuple(
        dataclasses.replace(rule, aliases=(rule.source.replace(name, other, 1),)) for rule in rules
    )


def _around_layers(config: CaptionerConfig) -> tuple[Rule, ...]:
    """Returns what stands around the layers; the aliases are names of a text on the course."""
    head = linear("output", "decoder/head")
    if config.tie_head:
        # A tied module has its table twice in a file, a file of safetensors once.
        embedding = (
            Rule("embedding.weight", _EMBEDDING, aliases=("output.weight",)),
            Rule("output.weight", _EMBEDDING, aliases=("embedding.weight",)),
        )
    else:
        embedding = (Rule("embedding.weight", _EMBEDDING), *_also(head, "output", "classifier"))
    visual = _also(linear("visual_projection", "visual_proj"), "visual_projection", "visual_proj")
    return *embedding, *visual, *_positions(config), *norm("transformer.norm", "decoder/norm")


def _positions(config: CaptionerConfig) -> tuple[Rule, ...]:
    if config.position == "learned":
        return (Rule("positional_encoding.pe", _POSITIONS),)
    table = sinusoids(config.max_length, config.width).astype(np.float32)[None]
    return (Rule("positional_encoding.pe", _EMBEDDING, constant=table),)


def _course_attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *linear(f"{theirs}.query", f"{ours}/query"),
        *linear(f"{theirs}.key", f"{ours}/key"),
        *linear(f"{theirs}.value", f"{ours}/value"),
        *linear(f"{theirs}.proj", f"{ours}/out"),
    )


def torch_attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Returns the rules of a `torch.nn.MultiheadAttention`, which packs three kernels into one."""

    def packed(part: str) -> tuple[str, ...]:
        return tuple(f"{ours}/{name}/{part}" for name in ("query", "key", "value"))

    return (
        Rule(f"{theirs}.in_proj_weight", packed("kernel"), LINEAR),
        Rule(f"{theirs}.in_proj_bias", packed("bias")),
        *linear(f"{theirs}.out_proj", f"{ours}/out"),
    )


def _norms_and_mlp(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *norm(f"{theirs}.norm{{n}}", f"{ours}/norm{{n}}"),
        *linear(f"{theirs}.linear1", f"{ours}/mlp/fc1"),
        *linear(f"{theirs}.linear2", f"{ours}/mlp/fc2"),
    )


def torch_layer(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Returns the rules of a `torch.nn.TransformerDecoderLayer`."""
    return (
        *torch_attention(f"{theirs}.self_attn", f"{ours}/self_attn"),
        *torch_attention(f"{theirs}.multihead_attn", f"{ours}/cross_attn"),
        *_norms_and_mlp(theirs, ours),
    )


_COURSE = (
    *_course_attention(f"{_LAYER}.self_attn", f"{_OURS}/self_attn"),
    *_course_attention(f"{_LAYER}.multihead_attn", f"{_OURS}/cross_attn"),
    *_norms_and_mlp(_LAYER, _OURS),
)
_COURSE_2025 = (
    *_course_attention(f"{_LAYER}.self_attn", f"{_OURS}/self_attn"),
    *_course_attention(f"{_LAYER}.cross_attn", f"{_OURS}/cross_attn"),
    *norm(f"{_LAYER}.norm_self", f"{_OURS}/norm1"),
    *norm(f"{_LAYER}.norm_cross", f"{_OURS}/norm2"),
    *norm(f"{_LAYER}.norm_ffn", f"{_OURS}/norm3"),
    *linear(f"{_LAYER}.ffn.fc1", f"{_OURS}/mlp/fc1"),
    *linear(f"{_LAYER}.ffn.fc2", f"{_OURS}/mlp/fc2"),
)

# --- transformers -------------------------------------------------------------------------------

_HF_LAYER = "model.decoder.layers.{i}"
# TrOCR's table of positions starts with two rows that it never reads.
_BEHIND_TWO = Transform(
    lambda table: table[None, 2:],
    lambda table: np.pad(table[0], ((2, 0), (0, 0))),
)


def _hf_attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *linear(f"{_HF_LAYER}.{theirs}.q_proj", f"{_OURS}/{ours}/query"),
        *linear(f"{_HF_LAYER}.{theirs}.k_proj", f"{_OURS}/{ours}/key"),
        *linear(f"{_HF_LAYER}.{theirs}.v_proj", f"{_OURS}/{ours}/value"),
        *linear(f"{_HF_LAYER}.{theirs}.out_proj", f"{_OURS}/{ours}/out"),
    )


_EMBED_TOKENS, _OUTPUT = "model.decoder.embed_tokens.weight", "output_projection.weight"
_HF = (
    Rule(_EMBED_TOKENS, _EMBEDDING, aliases=(_OUTPUT,)),
    Rule(_OUTPUT, _EMBEDDING, aliases=(_EMBED_TOKENS,)),
    Rule("model.decoder.embed_positions.weight", _POSITIONS, _BEHIND_TWO),
    *_hf_attention("self_attn", "self_attn"),
    *norm(f"{_HF_LAYER}.self_attn_layer_norm", f"{_OURS}/norm1"),
    *_hf_attention("encoder_attn", "cross_attn"),
    *norm(f"{_HF_LAYER}.encoder_attn_layer_norm", f"{_OURS}/norm2"),
    *linear(f"{_HF_LAYER}.fc1", f"{_OURS}/mlp/fc1"),
    *linear(f"{_HF_LAYER}.fc2", f"{_OURS}/mlp/fc2"),
    *norm(f"{_HF_LAYER}.final_layer_norm", f"{_OURS}/norm3"),
)

# --- all ----------------------------------------------------------------------------------------


def _project_memory(config: CaptionerConfig) -> bool | None:
    """Returns an option with which features are projected: the course does so always."""
    differ = config.feature_width != config.width
    return config.project_memory or (None if differ else True)


def _source(rules: Callable[[CaptionerConfig], tuple[Rule, ...]], **fields: Any) -> Source:
    return Source(rules=rules, fits={}, heads=("decoder/head",), classes=_EMBEDDING, **fields)


def _course(layers: tuple[Rule, ...], activation: str) -> Source:
    return _source(
        lambda config: (*layers, *_around_layers(config)),
        requires={
            "encoder": None,
            "position": "sinusoidal",
            "tie_head": False,
            "project_memory": _project_memory,
        },
        usual={"norm_eps": 1e-5, "norm_first": False, "activation": activation},
    )


SOURCES = {
    "cs231n": _course(_COURSE, "relu"),
    "cs231n_2025": _course(_COURSE_2025, "gelu"),
    "torch": _source(
        lambda config: (*torch_layer(_LAYER, _OURS), *_around_layers(config)),
        requires={"encoder": None},
        usual={"norm_eps": 1e-5, "norm_first": False, "activation": "relu"},
    ),
    "hf": _source(
        lambda config: _HF,
        requires={"encoder": None, "position": "learned", "tie_head": True, "norm_first": False},
        usual={"norm_eps": 1e-5, "activation": "gelu"},
    ),
}
