"""Names of the masked autoencoder's weights in the paper's code and in transformers.

A file of the encoder alone is one of a Vision Transformer, and so is this one for it.
"""

import dataclasses

from jaxvision.interop.adapt import Source, fit_channels
from jaxvision.interop.rules import Rule, linear, norm
from jaxvision.interop.vit import BLOCK, TIMM_ENCODER, before_5, hf_block, hf_rules, timm_block
from jaxvision.models.mae import MAEConfig

_DECODER = f"decoder/{BLOCK}"

_OFFICIAL = (
    *TIMM_ENCODER,
    *norm("norm", "norm"),
    *linear("decoder_embed", "decoder/embed"),
    Rule("mask_token", "decoder/mask_token"),
    Rule("decoder_pos_embed", "decoder/pos_embed"),
    *timm_block("decoder_blocks.{i}", _DECODER),
    *norm("decoder_norm", "decoder/norm"),
    *linear("decoder_pred", "decoder/head"),
)

_HF = (
    *hf_rules("vit"),
    *linear("decoder.decoder_embed", "decoder/embed"),
    Rule("decoder.mask_token", "decoder/mask_token"),
    Rule("decoder.decoder_pos_embed", "decoder/pos_embed"),
    *(
        dataclasses.replace(rule, aliases=(before_5(rule.source),))
        for rule in hf_block("decoder.decoder_layers.{i}", _DECODER)
    ),
    *norm("decoder.decoder_norm", "decoder/norm"),
    *linear("decoder.decoder_pred", "decoder/head"),
)


def _official(config: MAEConfig) -> tuple[Rule, ...]:
    del config
    return _OFFICIAL


def _hf(config: MAEConfig) -> tuple[Rule, ...]:
    del config
    return _HF


_FITS = {"patch_embed/kernel": fit_channels}
SOURCES = {
    "mae": Source(rules=_official, usual={"norm_eps": 1e-6}, fits=_FITS),
    "hf": Source(rules=_hf, usual={"norm_eps": 1e-12}, fits=_FITS),
}
