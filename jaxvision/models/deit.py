"""DeiT: Vision Transformers trained on ImageNet-1k alone, some with a teacher.

Without a teacher a DeiT is a ViT, trained otherwise; so is a DeiT-III, with LayerScale and a class
token that has no position. With a teacher there is a second token beside the class token, and a
second head that reads it and learns what the teacher says.
"""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.models.spec import ModelSpec, Preprocess, param_dtype
from jaxvision.models.vit import SIZES, ViT, ViTConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeiTConfig(ViTConfig):
    """Every choice of a DeiT with a distillation token: those of `ViTConfig`, and one more.

    Attributes:
      distillation_head: Whether the distillation token has a head of its own; False: the class
        token's head answers alone (`DeiTForImageClassification` of transformers).
    """

    distillation_head: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.pool != "token":
            raise ValueError(
                f"The heads read the class and the distillation token: pool must be 'token', got "
                f"{self.pool!r}."
            )
        if self.num_registers:
            raise ValueError("A model with a distillation token has no registers: num_registers=0.")
        if self.pooler or self.head_hidden or self.head_dropout_rate:
            raise ValueError(
                "pooler, head_hidden and head_dropout_rate belong to one head: leave them out of a "
                "model with a distillation token, which has two."
            )

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: the class token, then the distillation token."""
        return 2


class DeiT(ViT):
    """Vision Transformer with a distillation token.

    Initial values of the second token and head as timm: trunc-normal 0.02, bias 0.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: Touvron et al. 2021, Training data-efficient image transformers and distillation through
      attention, section 4 and figure 2, https://arxiv.org/abs/2012.12877.
    """

    config: DeiTConfig
    weight_sources = "jaxvision.interop.deit:SOURCES"
    not_decayed = frozenset({"dist_token"})

    def __init__(self, config: DeiTConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.dist_token = self._table(1, 0.02, rngs)
        self.head_dist = self._head(rngs) if config.distillation_head else None

    def _prefix(self) -> list[nnx.Variable]:
        return [*super()._prefix(), self.dist_token]

    def classify(
        self,
        features: Float[Array, "batch tokens features"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch outputs"]:
        """Returns the mean of both heads' logits, or of both tokens if the model has no head.

        So it does in training, too, as timm does without a teacher; with one, train on `heads`.

        Args:
          features: Features of this model.
          train: Whether the model is in training; changes nothing here.
          rngs: Source of randomness; not needed here.
        """
        if not self.config.distillation_head:
            return super().classify(features, train=train, rngs=rngs)
        one, other = self._read_out(features)
        return (one + other) / 2

    def heads(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch classes"]]:
        """Returns (logits of the class token, logits of the distillation token).

        For training with a teacher: the first belong to the labels, the second to what the teacher
        says. timm returns this pair after `set_distilled_training`.

        Args:
          images: Normalised images of any size that is a whole number of patches.
          train: Whether every kind of dropping is on.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.

        Raises:
          ValueError: if the model does not have both heads.
        """
        return self.classify_by_head(self.features(images, train=train, rngs=rngs))

    def classify_by_head(
        self, features: Float[Array, "batch tokens features"]
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch classes"]]:
        """Returns the pair of `heads` from what `features` returned.

        Raises:
          ValueError: if the model does not have both heads.
        """
        if self.head is None or self.head_dist is None:
            raise ValueError(
                "heads() needs both heads: build the model with num_classes > 0 and "
                "distillation_head=True."
            )
        return self._read_out(features)

    def _read_out(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns what the class token and the distillation token say, each through its head."""
        tokens = features[:, :2].astype(param_dtype(self.config.dtype))
        one = tokens[:, 0] if self.head is None else self.head(tokens[:, 0])
        other = tokens[:, 1] if self.head_dist is None else self.head_dist(tokens[:, 1])
        return one, other


def _spec(
    name: str,
    config: ViTConfig,
    num_params: int,
    timm: str,
    source: str = "Touvron et al. 2021 (DeiT), table 1",
) -> ModelSpec:
    size = config.image_shape[0]
    return ModelSpec(
        name=name,
        family="deit",
        build=DeiT if isinstance(config, DeiTConfig) else ViT,
        config=config,
        image_size=size,
        preprocess=Preprocess(interpolation="bicubic", crop_fraction=0.9 if size == 224 else 1.0),
        num_params=num_params,
        source=source,
        timm=timm,
    )


def _plain(size: str, **options: Any) -> ViTConfig:
    return ViTConfig(patch_size=16, **SIZES[size], **options)


def _distilled(size: str, **options: Any) -> DeiTConfig:
    return DeiTConfig(patch_size=16, **SIZES[size], **options)


def _third(size: str, patch_size: int, num_params: int, timm: str) -> ModelSpec:
    config = ViTConfig(
        patch_size=patch_size, layer_scale_init=1e-6, class_token_position=False, **SIZES[size]
    )
    source = "Touvron et al. 2022 (DeiT III), section 3"
    return _spec(f"deit3_{size}{patch_size}", config, num_params, timm, source)


# torchvision has no DeiT; transformers has those of table 1 with norm_eps=1e-12.
SPECS = (
    _spec("deit_ti16", _plain("ti"), 5_717_416, "deit_tiny_patch16_224"),
    _spec("deit_s16", _plain("s"), 22_050_664, "deit_small_patch16_224"),
    _spec("deit_b16", _plain("b"), 86_567_656, "deit_base_patch16_224"),
    _spec("deit_b16_384", _plain("b", image_size=384), 86_859_496, "deit_base_patch16_384"),
    _spec("deit_ti16_distilled", _distilled("ti"), 5_910_800, "deit_tiny_distilled_patch16_224"),
    _spec("deit_s16_distilled", _distilled("s"), 22_436_432, "deit_small_distilled_patch16_224"),
    _spec("deit_b16_distilled", _distilled("b"), 87_338_192, "deit_base_distilled_patch16_224"),
    _spec(
        "deit_b16_distilled_384",
        _distilled("b", image_size=384),
        87_630_032,
        "deit_base_distilled_patch16_384",
    ),
    _third("s", 16, 22_059_496, "deit3_small_patch16_224"),
    _third("b", 16, 86_585_320, "deit3_base_patch16_224"),
    _third("l", 16, 304_374_760, "deit3_large_patch16_224"),
    _third("h", 14, 632_126_440, "deit3_huge_patch14_224"),
)
