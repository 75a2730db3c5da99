"""Names of DINOv2's weights in timm, in the authors' own files and in transformers.

The authors and transformers give the class token a position beside registers, too. Here and in timm
it is part of the token: reading adds it, writing leaves zeros in its place.
"""

import dataclasses
import re
from typing import Any

import numpy as np

from jaxvision.interop.adapt import (
    Source,
    fit_channels,
    fit_positions,
    resize_as_timm,
    resize_as_transformers,
)
from jaxvision.interop.rules import SAME, Rule, Transform, Weights, conv, linear, norm
from jaxvision.interop.vit import BLOCK, before_5, fits, timm_rules, timm_source
from jaxvision.models.spec import param_dtype
from jaxvision.models.vit import ViTConfig

_REQUIRES = {"position": "learned", "stem": "patch", "class_token": True}


def _class_position_added(weights: Weights, config: ViTConfig) -> Weights:
    """Returns the weights with the class token's position in the token, where there are registers.

    The table keeps its first row, as zeros.
    """
    weights = dict(weights)
    for name in [name for name in weights if _POSITIONS.search(name)]:
        token = _POSITIONS.sub("cls_token", name)
        table = weights[name]
        fits = table.ndim == 3 and token in weights and weights[token].shape[-1] == table.shape[-1]
        if config.num_registers and fits:
            weights[token] = weights[token] + table[:, :1]
            weights[name] = np.concatenate([np.zeros_like(table[:, :1]), table[:, 1:]], axis=1)
    return weights


_POSITIONS = re.compile("(position_embeddings|pos_embed)$")

# --- timm, and the authors ----------------------------------------------------------------------

_AUTHORS = (("register_tokens", "reg_token"), ("mlp.w12.", "mlp.fc1."), ("mlp.w3.", "mlp.fc2."))
_TIMM = timm_source(timm_rules, requires=_REQUIRES, fits=fits(resize_as_timm))


def _named_as_timm(weights: Weights, config: ViTConfig) -> Weights:
    """Returns the weights as timm would convert them."""
    if "register_tokens" in weights:
        weights = _class_position_added(weights, config)
        weights["pos_embed"] = weights["pos_embed"][:, 1:]
    for theirs, timm in _AUTHORS:
        weights = {name.replace(theirs, timm): array for name, array in weights.items()}
    return _TIMM.prepare(weights, config)


# --- transformers -------------------------------------------------------------------------------

_LAYER = "encoder.layer.{i}"
_WITHOUT_FIRST = Transform(
    lambda table: table[:, 1:],
    lambda table: np.concatenate([np.zeros_like(table[:, :1]), table], axis=1),
)


def _hf(config: ViTConfig) -> tuple[Rule, ...]:
    mlp = (
        *linear(f"{_LAYER}.mlp.gate_proj", f"{BLOCK}/mlp/gate"),
        *linear(f"{_LAYER}.mlp.up_proj", f"{BLOCK}/mlp/fc1"),
        *linear(f"{_LAYER}.mlp.down_proj", f"{BLOCK}/mlp/fc2"),
    )
    if not config.gated_mlp:
        mlp = (
            *linear(f"{_LAYER}.mlp.fc1", f"{BLOCK}/mlp/fc1"),
            *linear(f"{_LAYER}.mlp.fc2", f"{BLOCK}/mlp/fc2"),
        )
    mask = np.zeros((1, config.width), param_dtype(config.dtype))
    rules = (
        Rule("embeddings.cls_token", "cls_token"),
        Rule("embeddings.mask_token", "cls_token", constant=mask),
        Rule("embeddings.register_tokens", "reg_token"),
        Rule(
            "embeddings.position_embeddings",
            "pos_embed",
            _WITHOUT_FIRST if config.num_registers else SAME,
        ),
        *conv("embeddings.patch_embeddings.projection", "patch_embed"),
        *norm(f"{_LAYER}.norm1", f"{BLOCK}/norm1"),
        *linear(f"{_LAYER}.attention.q_proj", f"{BLOCK}/attn/query"),
        *linear(f"{_LAYER}.attention.k_proj", f"{BLOCK}/attn/key"),
        *linear(f"{_LAYER}.attention.v_proj", f"{BLOCK}/attn/value"),
        *linear(f"{_LAYER}.attention.o_proj", f"{BLOCK}/attn/out"),
        Rule(f"{_LAYER}.layer_scale1.lambda1", f"{BLOCK}/layer_scale1/gamma"),
        *norm(f"{_LAYER}.norm2", f"{BLOCK}/norm2"),
        *mlp,
        Rule(f"{_LAYER}.layer_scale2.lambda1", f"{BLOCK}/layer_scale2/gamma"),
        *norm("layernorm", "norm"),
    )
    return tuple(dataclasses.replace(rule, aliases=_aliases(rule.source)) for rule in rules)


def _aliases(name: str) -> tuple[str, ...]:
    names = dict.fromkeys((name, _before_5(name)))
    inside = (f"{model}.{each}" for model in ("dinov2", "dinov2_with_registers") for each in names)
    return (*tuple(names)[1:], *inside)


def _before_5(name: str) -> str:
    """Returns what files call an array, which transformers 5 writes as those before it did."""
    inside = before_5(name) if ".attention." in name else name
    return inside.replace("mlp.down_proj", "mlp.weights_out")


def _split_gate(weights: Weights, config: Any) -> Weights:
    """Returns the weights with the packed layer of a gated MLP as two."""
    weights = _class_position_added(weights, config)
    for name in [name for name in weights if ".mlp.weights_in." in name]:
        array = weights.pop(name)
        for part, half in zip(("gate_proj", "up_proj"), np.split(array, 2), strict=True):
            weights[name.replace("weights_in", part)] = half
    return weights


def _fit_positions(
    table: np.ndarray, shape: tuple[int, ...], config: ViTConfig, image_size: Any = None
) -> tuple[np.ndarray, str] | None:
    """Resizes with antialias only beside registers, as transformers does."""
    resize = resize_as_timm if config.num_registers else resize_as_transformers
    return fit_positions(table, shape, config, image_size, resize=resize)


# --- all ----------------------------------------------------------------------------------------

SOURCES = {
    "timm": dataclasses.replace(_TIMM, prepare=_named_as_timm),
    "hf": Source(
        rules=_hf,
        requires={**_REQUIRES, "pool": "token", "pooler": False, "head_hidden": 0},
        usual={"norm_eps": 1e-6},
        fits={"patch_embed/kernel": fit_channels, "pos_embed": _fit_positions},
        prepare=_split_gate,
    ),
}
