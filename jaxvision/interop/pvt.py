"""Names of the PVT's weights in Hugging Face, the only library that has the first version."""

import functools

from jaxvision.interop.adapt import (
    Fit,
    Source,
    fit_channels,
    fit_positions,
    resize_as_augreg,
)
from jaxvision.interop.rules import Rule, conv, linear, norm, or_bare

_PATCHES, _STAGE = "pvt.encoder.patch_embeddings.{stage}", "stages/{stage}"
_THEIRS, _OURS = "pvt.encoder.block.{stage}.{i}", "stages/{stage}/blocks/{i}"
_RULES = or_bare(
    (
        *conv(f"{_PATCHES}.projection", f"{_STAGE}/patch_embed"),
        *norm(f"{_PATCHES}.layer_norm", f"{_STAGE}/patch_norm"),
        Rule(f"{_PATCHES}.cls_token", f"{_STAGE}/cls_token"),
        Rule(f"{_PATCHES}.position_embeddings", f"{_STAGE}/pos_embed"),
        *norm(f"{_THEIRS}.layer_norm_1", f"{_OURS}/norm1"),
        *conv(f"{_THEIRS}.attention.self.sequence_reduction", f"{_OURS}/reduction/proj"),
        *norm(f"{_THEIRS}.attention.self.layer_norm", f"{_OURS}/reduction/norm"),
        *linear(f"{_THEIRS}.attention.self.query", f"{_OURS}/attn/query"),
        *linear(f"{_THEIRS}.attention.self.key", f"{_OURS}/attn/key"),
        *linear(f"{_THEIRS}.attention.self.value", f"{_OURS}/attn/value"),
        *linear(f"{_THEIRS}.attention.output.dense", f"{_OURS}/attn/out"),
        *norm(f"{_THEIRS}.layer_norm_2", f"{_OURS}/norm2"),
        *linear(f"{_THEIRS}.mlp.dense1", f"{_OURS}/mlp/fc1"),
        *linear(f"{_THEIRS}.mlp.dense2", f"{_OURS}/mlp/fc2"),
        *norm("pvt.encoder.layer_norm", "norm"),
        *linear("classifier", "head"),
    ),
    "pvt.",
)


def _stage_positions(stage: int) -> Fit:
    # As the model itself resizes its tables for images of another size.
    return functools.partial(
        fit_positions,
        resize=resize_as_augreg,
        method="bilinear",
        grid=lambda config: config.grid(stage),
    )


_FITS: dict[str, Fit] = {
    "stages/0/patch_embed/kernel": fit_channels,
    **{f"stages/{s}/pos_embed": _stage_positions(s) for s in range(4)},
}

SOURCES = {"hf": Source(rules=lambda config: _RULES, usual={"norm_eps": 1e-6}, fits=_FITS)}
