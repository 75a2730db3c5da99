"""Names of the weights of a DeiT with a distillation token, in timm and in transformers.

The others are Vision Transformers, there as here.
"""

from jaxvision.interop.adapt import Source, resize_as_timm, resize_as_transformers
from jaxvision.interop.rules import Rule, linear
from jaxvision.interop.vit import HF_POOLER, PLAIN, fits, hf_rules, timm_rules, timm_source
from jaxvision.models.deit import DeiTConfig


def _timm(config: DeiTConfig) -> tuple[Rule, ...]:
    return (
        *timm_rules(config),
        Rule("dist_token", "dist_token"),
        *linear("head_dist", "head_dist"),
    )


_ENCODER = (
    *hf_rules("deit"),
    Rule(
        "deit.embeddings.distillation_token",
        "dist_token",
        aliases=("embeddings.distillation_token",),
    ),
)


def _hf(config: DeiTConfig) -> tuple[Rule, ...]:
    if not config.distillation_head:  # DeiTForImageClassification
        return *_ENCODER, *linear("classifier", "head")
    return (  # DeiTForImageClassificationWithTeacher
        *_ENCODER,
        *linear("cls_classifier", "head"),
        *linear("distillation_classifier", "head_dist"),
    )


SOURCES = {
    "timm": timm_source(
        _timm,
        requires={"position": "learned", "stem": "patch", "distillation_head": True},
        fits=fits(resize_as_timm),
        heads=("head", "head_dist"),
    ),
    "hf": Source(
        rules=_hf,
        requires=PLAIN,
        usual={"norm_eps": 1e-12},
        fits=fits(resize_as_transformers),
        heads=("head", "head_dist"),
        beside_head=HF_POOLER,
    ),
}
