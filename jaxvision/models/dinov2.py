"""DINOv2: Vision Transformers that learned without labels, for features of every patch.

A DINOv2 is a ViT with LayerScale and patches of 14 pixels; the later ones have registers, the giant
one a gated MLP. They have no classes: what a call returns is the normalised class token. Give
`num_classes` for a new head.
"""

from typing import Any

from jaxvision.models.spec import ModelSpec, Preprocess
from jaxvision.models.vit import SIZES, ViT, ViTConfig


class DINOv2(ViT):
    """Vision Transformer with the names of DINOv2's weights.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: Oquab et al. 2024, DINOv2: Learning Robust Visual Features without Supervision,
      https://arxiv.org/abs/2304.07193; Darcet et al. 2024, Vision Transformers Need Registers,
      https://arxiv.org/abs/2309.16588.
    """

    weight_sources = "jaxvision.interop.dinov2:SOURCES"


_SIZES: dict[str, dict[str, Any]] = {
    **{size: SIZES[size] for size in ("s", "b", "l")},
    "g": {"width": 1536, "depth": 40, "num_heads": 24, "mlp_ratio": 8 / 3, "gated_mlp": True},
}
_TIMM = {"s": "small", "b": "base", "l": "large", "g": "giant"}


def _spec(size: str, num_params: int, num_registers: int = 0) -> ModelSpec:
    registers = f"_reg{num_registers}" if num_registers else ""
    config = ViTConfig(
        patch_size=14,
        image_size=518,
        num_classes=0,
        layer_scale_init=1e-5,
        class_token_position=not num_registers,
        num_registers=num_registers,
        **_SIZES[size],
    )
    paper = "Darcet et al. 2024, section 3" if num_registers else "Oquab et al. 2024, table 16"
    return ModelSpec(
        name=f"dinov2_{size}14{registers}",
        family="dinov2",
        build=DINOv2,
        config=config,
        image_size=518,
        preprocess=Preprocess(interpolation="bicubic", crop_fraction=1.0),
        num_params=num_params,
        source=paper,
        timm=f"vit_{_TIMM[size]}_patch14{registers}_dinov2",
    )


SPECS = (
    _spec("s", 22_056_192),
    _spec("b", 86_579_712),
    _spec("l", 304_367_616),
    _spec("g", 1_136_479_232),
    _spec("s", 22_057_344, num_registers=4),
    _spec("b", 86_582_016, num_registers=4),
    _spec("l", 304_370_688, num_registers=4),
    _spec("g", 1_136_483_840, num_registers=4),
)
