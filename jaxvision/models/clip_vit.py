"""The image encoders of CLIP and SigLIP: Vision Transformers, here with a classifier."""

from jaxvision.models.spec import CLIP_MEAN, CLIP_STD, HALF, ModelSpec, Preprocess
from jaxvision.models.vit import SIZES, ViT, ViTConfig

CLIP_PREPROCESS = Preprocess(
    mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic", crop_fraction=1.0
)
SIGLIP_PREPROCESS = Preprocess(
    mean=HALF, std=HALF, interpolation="bicubic", crop_fraction=1.0, crop_mode="squash"
)


def _clip(size: str, patch_size: int, num_params: int) -> ModelSpec:
    """Returns the image encoder of a CLIP, with a classifier."""
    names = {"b": "base", "l": "large"}
    return ModelSpec(
        name=f"vit_{size}{patch_size}_clip",
        family="vit",
        build=ViT,
        config=ViTConfig(
            patch_size=patch_size,
            activation="quick_gelu",
            pre_norm=True,
            norm_eps=1e-5,
            **SIZES[size],
        ),
        preprocess=CLIP_PREPROCESS,
        num_params=num_params,
        source="Radford et al. 2021, table 20, with a classifier",
        timm=f"vit_{names[size]}_patch{patch_size}_clip_quickgelu_224",
    )


SPECS = (
    _clip("b", 32, 88_225_000),
    _clip("b", 16, 86_568_424),
    _clip("l", 14, 304_204_776),
    # timm has it with the exact GELU; the authors and transformers have the approximation.
    ModelSpec(
        name="vit_b16_siglip",
        family="vit",
        build=ViT,
        config=ViTConfig(
            patch_size=16,
            pool="attention",
            class_token=False,
            activation="gelu_tanh",
            **SIZES["b"],
        ),
        preprocess=SIGLIP_PREPROCESS,
        num_params=93_653_224,
        source="Zhai et al. 2023, section 4, with a classifier",
    ),
)
