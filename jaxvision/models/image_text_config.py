"""The choices of a pair of encoders, of images and of texts."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxvision.errors import check_choice
from jaxvision.layers.activation import GELUS
from jaxvision.layers.attention import check_implementation
from jaxvision.layers.block_stack import Remat, Scan
from jaxvision.models.encoder import hashable_options
from jaxvision.models.spec import check_rates

POOLS = ("end", "last")
LOSSES = ("softmax", "sigmoid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTextConfig:
    """Every choice of a pair of encoders.

    Attributes:
      vocab_size: Number of tokens in the vocabulary.
      max_length: Largest number of tokens of a text, those that mark its ends included.
      width: Number of channels of a token of the text.
      depth: Number of blocks of the text encoder.
      num_heads: Number of attention heads of the text encoder.
      mlp_ratio: Ratio of the hidden channels of the text encoder's MLPs to its width.
      embed_width: Number of channels of the vectors that are compared.
      encoder: Name of an image model of the registry; None: the model is given features instead of
        images.
      encoder_options: Further fields of the encoder's config, as pairs or a dict.
      image_size: Image size of the encoder in pixels: side, or (height, width); None: as published.
      feature_width: Number of channels of the features; only without an encoder.
      freeze_encoder: Whether the encoder is frozen: it runs as in evaluation and gets no gradient.
      project_image: Whether a linear map without a bias follows the image encoder; False: its
        features are the vector, as in SigLIP.
      causal: Whether a token of the text sees none behind it.
      text_pool: Kind of pooling of the text: "end" (the first `end_token`, CLIP) or "last" (the
        last of all positions, which may be padding, SigLIP).
      end_token: Token that ends a text.
      text_head_bias: Whether the linear map that follows the text encoder has a bias.
      loss: Loss that the model is trained with: "softmax" (CLIP) or "sigmoid" (SigLIP), whose
        logits have a learned bias.
      activation: Name of the activation of the text encoder's MLPs, see `ViTConfig`.
      dropout_rate: Dropout rate of the text encoder's embeddings and MLPs, and after its attention.
      attention_dropout_rate: Dropout rate of the text encoder's attention weights.
      norm_eps: Epsilon of the text encoder's LayerNorms.
      attention: Implementation of the text encoder's attention; see `dot_product_attention`.
      remat: Whether the text encoder's blocks are computed again in the backward pass; "offload":
        and what goes into each is kept in the memory of the host.
      scan: Whether the text encoder's blocks are kept stacked, see `build_blocks`.
      dtype: Compute dtype; parameters and vectors are float32 (float64 if this is).
    """

    vocab_size: int = 49_408
    max_length: int = 77
    width: int = 512
    depth: int = 12
    num_heads: int = 8
    mlp_ratio: float = 4.0
    embed_width: int = 512
    encoder: str | None = "vit_b32_clip"
    encoder_options: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    image_size: int | tuple[int, int] | None = None
    feature_width: int | None = None
    freeze_encoder: bool = False
    project_image: bool = True
    causal: bool = True
    text_pool: str = "end"
    end_token: int = 49_407
    text_head_bias: bool = False
    loss: str = "softmax"
    activation: str = "quick_gelu"
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    norm_eps: float = 1e-5
    attention: str = "auto"
    remat: Remat = False
    scan: Scan = "auto"
    dtype: str = "float32"

    def __post_init__(self):
        check_choice("text_pool", self.text_pool, POOLS)
        check_choice("loss", self.loss, LOSSES)
        check_choice("activation", self.activation, tuple(GELUS))
        check_implementation(self.attention)
        check_rates(self)
        for field in ("vocab_size", "max_length", "width", "depth", "num_heads", "embed_width"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}.")
        if (self.encoder is None) != (self.feature_width is not None):
            raise ValueError(
                "A pair of encoders has an image encoder, or feature_width for features without "
                f"one, got encoder={self.encoder!r} and feature_width={self.feature_width}."
            )
        object.__setattr__(self, "encoder_options", hashable_options(self.encoder_options))
