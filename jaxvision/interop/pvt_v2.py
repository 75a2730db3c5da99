"""Names of the PVT v2's weights in timm and in Hugging Face."""

from jaxvision.interop.adapt import Source, fit_channels
from jaxvision.interop.rules import LINEAR, Rule, conv, linear, norm, or_bare, unflattened
from jaxvision.models.pvt_v2 import PVTv2Config

_STAGE, _BLOCK = "stages/{stage}", "stages/{stage}/blocks/{i}"
_TIMM_BLOCK = "stages.{stage}.blocks.{i}"


def _patch_embed(theirs: str, ours: str, *, norm_name: str) -> tuple[Rule, ...]:
    return (
        *conv(f"{theirs}.proj", f"{ours}/patch_embed/proj"),
        *norm(f"{theirs}.{norm_name}", f"{ours}/patch_embed/norm"),
    )


def _key_value(part: str) -> tuple[str, ...]:
    """Returns our two paths that timm keeps in one array, in this order."""
    return f"{_BLOCK}/attn/key/{part}", f"{_BLOCK}/attn/value/{part}"


_TIMM = (
    *norm(f"{_TIMM_BLOCK}.norm1", f"{_BLOCK}/norm1"),
    *conv(f"{_TIMM_BLOCK}.attn.sr", f"{_BLOCK}/reduction/proj"),
    *norm(f"{_TIMM_BLOCK}.attn.norm", f"{_BLOCK}/reduction/norm"),
    *linear(f"{_TIMM_BLOCK}.attn.q", f"{_BLOCK}/attn/query"),
    Rule(f"{_TIMM_BLOCK}.attn.kv.weight", _key_value("kernel"), LINEAR),
    Rule(f"{_TIMM_BLOCK}.attn.kv.bias", _key_value("bias")),
    *linear(f"{_TIMM_BLOCK}.attn.proj", f"{_BLOCK}/attn/out"),
    *norm(f"{_TIMM_BLOCK}.norm2", f"{_BLOCK}/norm2"),
    *linear(f"{_TIMM_BLOCK}.mlp.fc1", f"{_BLOCK}/mlp/fc1"),
    *conv(f"{_TIMM_BLOCK}.mlp.dwconv", f"{_BLOCK}/mlp/conv"),
    *linear(f"{_TIMM_BLOCK}.mlp.fc2", f"{_BLOCK}/mlp/fc2"),
    *norm("stages.{stage}.norm", f"{_STAGE}/norm"),
    *linear("head", "head"),
)


def _timm(config: PVTv2Config) -> tuple[Rule, ...]:
    embeds = [_patch_embed("patch_embed", "stages/0", norm_name="norm")]
    for s in range(1, len(config.stage_depths)):
        embeds.append(_patch_embed(f"stages.{s}.downsample", f"stages/{s}", norm_name="norm"))
    return *(rule for rules in embeds for rule in rules), *_TIMM


_HF_STAGE = "pvt_v2.encoder.layers.{stage}"
_HF_BLOCK = f"{_HF_STAGE}.blocks.{{i}}"
_HF = or_bare(
    (
        *_patch_embed(f"{_HF_STAGE}.patch_embedding", _STAGE, norm_name="layer_norm"),
        *norm(f"{_HF_BLOCK}.layer_norm_1", f"{_BLOCK}/norm1"),
        *conv(f"{_HF_BLOCK}.attention.spatial_reduction", f"{_BLOCK}/reduction/proj"),
        *norm(f"{_HF_BLOCK}.attention.layer_norm", f"{_BLOCK}/reduction/norm"),
        *linear(f"{_HF_BLOCK}.attention.query", f"{_BLOCK}/attn/query"),
        *linear(f"{_HF_BLOCK}.attention.key", f"{_BLOCK}/attn/key"),
        *linear(f"{_HF_BLOCK}.attention.value", f"{_BLOCK}/attn/value"),
        *linear(f"{_HF_BLOCK}.attention.proj", f"{_BLOCK}/attn/out"),
        *norm(f"{_HF_BLOCK}.layer_norm_2", f"{_BLOCK}/norm2"),
        *linear(f"{_HF_BLOCK}.mlp.dense1", f"{_BLOCK}/mlp/fc1"),
        *conv(f"{_HF_BLOCK}.mlp.dwconv.dwconv", f"{_BLOCK}/mlp/conv"),
        *linear(f"{_HF_BLOCK}.mlp.dense2", f"{_BLOCK}/mlp/fc2"),
        *norm(f"{_HF_STAGE}.layer_norm", f"{_STAGE}/norm"),
        *linear("classifier", "head"),
    ),
    "pvt_v2.",
)
_FITS = {"stages/0/patch_embed/proj/kernel": fit_channels}

SOURCES = {
    "timm": Source(
        rules=_timm,
        requires={"projection_norm_eps": 1e-5},
        usual={"norm_eps": 1e-6},
        fits=_FITS,
        prepare=unflattened,
    ),
    "hf": Source(
        rules=lambda config: _HF,
        requires={"projection_norm_eps": lambda config: config.norm_eps},
        usual={"norm_eps": 1e-6},
        fits=_FITS,
    ),
}
