"""Names of the Vision Transformer's weights in timm, torchvision, transformers and Google's files.

transformers takes norm_eps from the config.json beside a file, and 1e-12 where that says nothing.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from jaxvision.errors import InputError
from jaxvision.interop import augreg
from jaxvision.interop.adapt import (
    Fit,
    Source,
    fit_channels,
    fit_positions,
    resize_as_augreg,
    resize_as_timm,
    resize_as_torchvision,
    resize_as_transformers,
)
from jaxvision.interop.rules import LINEAR, Rule, Weights, classifier, conv, linear, norm
from jaxvision.models.vit import ViTConfig

BLOCK = "blocks/{i}"


def _attention(part: str, block: str = BLOCK) -> tuple[str, ...]:
    """Returns our three paths that most libraries keep in one array, in this order."""
    return tuple(f"{block}/attn/{name}/{part}" for name in ("query", "key", "value"))


def _keys_and_values(part: str) -> tuple[str, ...]:
    """Returns the two paths of the pooling that timm keeps in one array, in this order."""
    return tuple(f"attn_pool/attn/{name}/{part}" for name in ("key", "value"))


# --- timm ---------------------------------------------------------------------------------------


def _layer_scale(n: int) -> Rule:
    """Returns a LayerScale, whose first files, those of DeiT-III, have it without its module."""
    path = f"{BLOCK}/layer_scale{n}/gamma"
    return Rule(f"blocks.{{i}}.ls{n}.gamma", path, aliases=(f"blocks.{{i}}.gamma_{n}",))


def timm_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Returns the rules of an encoder block, without its LayerScale."""
    return (
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        Rule(f"{theirs}.attn.qkv.weight", _attention("kernel", ours), LINEAR),
        Rule(f"{theirs}.attn.qkv.bias", _attention("bias", ours)),
        *linear(f"{theirs}.attn.proj", f"{ours}/attn/out"),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
    )


TIMM_ENCODER = (
    Rule("cls_token", "cls_token"),
    *norm("norm_pre", "norm_pre"),
    Rule("pos_embed", "pos_embed"),
    *conv("patch_embed.proj", "patch_embed"),
    *timm_block("blocks.{i}", BLOCK),
    _layer_scale(1),
    _layer_scale(2),
)
# A gated MLP, whose two first layers stand in one array; without the gate, the second of them.
_FC1 = linear("blocks.{i}.mlp.fc1", f"{BLOCK}/mlp/fc1")
_GATE = (
    Rule(
        "blocks.{i}.mlp.fc1.weight", (f"{BLOCK}/mlp/gate/kernel", f"{BLOCK}/mlp/fc1/kernel"), LINEAR
    ),
    Rule("blocks.{i}.mlp.fc1.bias", (f"{BLOCK}/mlp/gate/bias", f"{BLOCK}/mlp/fc1/bias")),
)


_TIMM_POOL = (
    Rule("attn_pool.latent", "attn_pool/probe"),
    *linear("attn_pool.q", "attn_pool/attn/query"),
    Rule("attn_pool.kv.weight", _keys_and_values("kernel"), LINEAR),
    Rule("attn_pool.kv.bias", _keys_and_values("bias")),
    *linear("attn_pool.proj", "attn_pool/attn/out"),
    *norm("attn_pool.norm", "attn_pool/norm"),
    *linear("attn_pool.mlp.fc1", "attn_pool/mlp/fc1"),
    *linear("attn_pool.mlp.fc2", "attn_pool/mlp/fc2"),
)


def timm_rules(config: ViTConfig) -> tuple[Rule, ...]:
    """Returns timm's table."""
    encoder = (*(rule for rule in TIMM_ENCODER if rule not in _FC1), *_GATE)
    return (
        *(encoder if config.gated_mlp else TIMM_ENCODER),
        Rule("reg_token", "reg_token"),
        *norm(_norm_name(config), "norm"),
        *_TIMM_POOL,
        *classifier("head", config.head_hidden),
    )


def _norm_name(config: ViTConfig) -> str:
    """Returns what timm calls the last norm, after its place: before or behind the pooling."""
    return "norm" if config.norm_first else "fc_norm"


def _checked_norm(weights: Weights, config: ViTConfig) -> Weights:
    """Returns the weights, once it is sure that their last norm stands where the model's does.

    Raises:
      InputError: if the file has a head, which was trained on what another norm gives.
    """
    wanted, other = _norm_name(config), _OTHER_NORM[_norm_name(config)]
    has_head = "head.weight" in weights
    if has_head and f"{other}.weight" in weights:
        both = f"{wanted}.weight" in weights
        found = "both before and behind" if both else _PLACE[other]
        raise InputError(
            f"The weights have a norm {found} the pooling ({other}), and the model, with "
            f"pool={config.pool!r}, only {_PLACE[wanted]} it ({wanted}): "
            + (
                "this model has no counterpart in them."
                if both
                else f"build it with pool={_POOL[other]!r}."
            )
        )
    return dict(weights)


_OTHER_NORM = {"norm": "fc_norm", "fc_norm": "norm"}
_PLACE = {"norm": "before", "fc_norm": "behind"}
_POOL = {"norm": "token", "fc_norm": "average"}
# Of MAE, DINO and MoCo v3, beside the encoder that their authors name as timm does.
_TRAINING_ONLY = ("decoder_*", "mask_token", "head.mlp.*", "head.last_layer.*")


def timm_source(rules: Callable[[Any], tuple[Rule, ...]], **fields: Any) -> Source:
    """Returns how timm keeps one of these families.

    Args:
      rules: Function (config) -> the table of names.
      **fields: Further fields of the source.
    """

    def unused(config: ViTConfig) -> tuple[str, ...]:
        # Without a head the norm that stands elsewhere gives way to a new one, as in MAE's code.
        projector = () if config.head_hidden else ("head.[0-9]*",)
        return *_TRAINING_ONLY, *projector, f"{_OTHER_NORM[_norm_name(config)]}.*"

    return Source(
        rules=rules,
        usual={"norm_eps": 1e-6},
        end=("norm",),
        unused=unused,
        prepare=_checked_norm,
        **fields,
    )


# --- torchvision --------------------------------------------------------------------------------

_LAYER = "encoder.layers.encoder_layer_{i}"


def _mlp(layer: int, old: str, ours: str) -> tuple[Rule, ...]:
    """Returns a layer of torchvision's MLP, whose published files still have the old names."""
    new, old = f"{_LAYER}.mlp.{layer}", f"{_LAYER}.mlp.{old}"
    return (
        Rule(f"{new}.weight", f"{BLOCK}/mlp/{ours}/kernel", LINEAR, (f"{old}.weight",)),
        Rule(f"{new}.bias", f"{BLOCK}/mlp/{ours}/bias", aliases=(f"{old}.bias",)),
    )


_TORCHVISION = (
    Rule("class_token", "cls_token"),
    Rule("encoder.pos_embedding", "pos_embed"),
    *conv("conv_proj", "patch_embed"),
    *norm(f"{_LAYER}.ln_1", f"{BLOCK}/norm1"),
    Rule(f"{_LAYER}.self_attention.in_proj_weight", _attention("kernel"), LINEAR),
    Rule(f"{_LAYER}.self_attention.in_proj_bias", _attention("bias")),
    *linear(f"{_LAYER}.self_attention.out_proj", f"{BLOCK}/attn/out"),
    *norm(f"{_LAYER}.ln_2", f"{BLOCK}/norm2"),
    *_mlp(0, "linear_1", "fc1"),
    *_mlp(3, "linear_2", "fc2"),
    *norm("encoder.ln", "norm"),
    *linear("heads.pre_logits", "pooler"),
)


def _torchvision(config: ViTConfig) -> tuple[Rule, ...]:
    return *_TORCHVISION, *classifier("heads.head", config.head_hidden)


# --- transformers -------------------------------------------------------------------------------

# What transformers 5 calls otherwise than the files that were written before it.
_BEFORE_5 = (
    (".layers.", ".encoder.layer."),
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
)


def hf_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Returns the rules of an encoder block, with the names of transformers 5."""
    return (
        *norm(f"{theirs}.layernorm_before", f"{ours}/norm1"),
        *linear(f"{theirs}.attention.q_proj", f"{ours}/attn/query"),
        *linear(f"{theirs}.attention.k_proj", f"{ours}/attn/key"),
        *linear(f"{theirs}.attention.v_proj", f"{ours}/attn/value"),
        *linear(f"{theirs}.attention.o_proj", f"{ours}/attn/out"),
        *norm(f"{theirs}.layernorm_after", f"{ours}/norm2"),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
    )


def hf_rules(model: str) -> tuple[Rule, ...]:
    """Returns the table of transformers without its head.

    Args:
      model: Name of the encoder in transformers, "vit" or "deit"; files of an encoder alone leave
        it out.
    """
    rules = (
        Rule(f"{model}.embeddings.cls_token", "cls_token"),
        Rule(f"{model}.embeddings.position_embeddings", "pos_embed"),
        *conv(f"{model}.embeddings.patch_embeddings.projection", "patch_embed"),
        *hf_block(f"{model}.layers.{{i}}", BLOCK),
        *norm(f"{model}.layernorm", "norm"),
    )
    return tuple(dataclasses.replace(rule, aliases=_aliases(rule.source)) for rule in rules)


def before_5(name: str) -> str:
    """Returns what a name of transformers 5 was called before."""
    for new, before in _BEFORE_5:
        name = name.replace(new, before)
    return name


def _aliases(name: str) -> tuple[str, ...]:
    old = before_5(name)
    bare = (name.partition(".")[2], old.partition(".")[2])
    return tuple(alias for alias in dict.fromkeys((old, *bare)) if alias != name)


# The layer behind the class token that an encoder alone has and one with a head has not; a model
# without `pooler` leaves it out.
HF_POOLER = tuple(
    f"{model}pooler.dense.{part}" for model in ("", "vit.", "deit.") for part in ("weight", "bias")
)
_POOLER = tuple(
    dataclasses.replace(rule, aliases=(rule.source.removeprefix("vit."),))
    for rule in linear("vit.pooler.dense", "pooler")
)


def _hf(config: ViTConfig) -> tuple[Rule, ...]:
    pooler = _POOLER if config.pooler else ()
    return *hf_rules("vit"), *pooler, *classifier("classifier", config.head_hidden)


# --- all ----------------------------------------------------------------------------------------

PLAIN: Mapping[str, Any] = {
    "position": "learned",
    "stem": "patch",
    "pool": "token",
    "activation": "gelu",
    "pre_norm": False,
    "class_token_position": True,
    "layer_scale_init": None,
    "num_registers": 0,
    "gated_mlp": False,
}


def fits(resize: Any, first_kernel: str = "patch_embed/kernel", **options: Any) -> dict[str, Fit]:
    """Returns what of a Vision Transformer can be made to fit.

    Args:
      resize: Function that resizes the positions, see `fit_positions`.
      first_kernel: Our path of the kernel that sees the image.
      **options: Further options of `fit_positions`.
    """
    positions = functools.partial(fit_positions, resize=resize, **options)
    return {first_kernel: fit_channels, "pos_embed": positions}


SOURCES = {
    "timm": timm_source(
        timm_rules,
        requires={"position": "learned", "stem": "patch"},
        fits=fits(resize_as_timm),
        beside_head=("head.weight", "head.bias"),
    ),
    "torchvision": Source(
        rules=_torchvision,
        requires=PLAIN,
        usual={"norm_eps": 1e-6},
        fits=fits(resize_as_torchvision),
        beside_head=("heads.head.weight", "heads.head.bias"),
    ),
    "hf": Source(
        rules=_hf,
        requires=PLAIN,
        usual={"norm_eps": 1e-12},
        fits=fits(resize_as_transformers),
        beside_head=(
            *(name for rule in _POOLER for name in (rule.source, *rule.aliases)),
            *("classifier.weight", "classifier.bias"),
        ),
    ),
    "augreg": Source(
        rules=augreg.rules,
        requires={**PLAIN, "head_hidden": 0},
        usual={"norm_eps": 1e-6},
        fits=fits(resize_as_augreg, method="bilinear"),
        beside_head=augreg.PRE_LOGITS,
        prepare=augreg.without_empty_axes,
    ),
}
