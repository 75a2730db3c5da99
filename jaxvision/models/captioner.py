"""Captioner: an image encoder of the registry, or none, and a Transformer decoder that writes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxvision.errors import InputError, check_choice
from jaxvision.layers.activation import Activation, relu
from jaxvision.layers.attention import check_implementation
from jaxvision.layers.block_stack import Remat
from jaxvision.layers.linear import linear
from jaxvision.layers.mlp import gelu
from jaxvision.layers.token_embed import POSITIONS
from jaxvision.models.encoder import build_encoder, hashable_options
from jaxvision.models.image_model import ImageModel
from jaxvision.models.spec import (
    HALF,
    Model,
    ModelSpec,
    Preprocess,
    check_rates,
    layer_dtypes,
)
from jaxvision.models.text_decoder import Cache, TransformerDecoder

ACTIVATIONS: dict[str, Activation] = {"relu": relu, "gelu": gelu}
MEMORIES = ("grid", "tokens", "pooled")
Inputs = Float[Array, "batch *space channels"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """Every choice of a captioner.

    Attributes:
      vocab_size: Number of words in the vocabulary.
      width: Number of channels of a token of the decoder.
      depth: Number of blocks of the decoder.
      num_heads: Number of attention heads of the decoder.
      hidden_width: Number of channels inside the decoder's MLPs.
      max_length: Largest number of tokens of a caption, `<START>` and `<END>` included.
      encoder: Name of an image model of the registry; None: the model is given features instead of
        images.
      encoder_options: Further fields of the encoder's config, as pairs or a dict.
      image_size: Image size of the encoder in pixels: side, or (height, width); None: as published.
      feature_width: Number of channels of the features; only without an encoder.
      memory: Part of the image's features that the decoder sees: "grid" (the last map, row by row;
        of a Vision Transformer its patches), "tokens" (the same with class tokens) or "pooled" (one
        vector).
      freeze_encoder: Whether the encoder is frozen: it runs as in evaluation and gets no gradient.
      project_memory: Whether there is a linear layer between encoder and decoder; None: only where
        their widths differ.
      norm_first: Whether each branch starts with its norm (Pre-LN), which is easier to train on
        little data; False: the norm follows the addition (Post-LN).
      final_norm: Whether there is a LayerNorm before the head; None: as `norm_first`.
      position: Kind of positions: "learned" or "sinusoidal".
      activation: Name of the activation of the decoder's MLPs: "relu" or "gelu".
      tie_head: Whether the head shares its kernel with the table of words, and has no bias.
      dropout_rate: Dropout rate of the decoder's embeddings and residual branches, and inside its
        MLPs.
      attention_dropout_rate: Dropout rate of the decoder's attention weights.
      norm_eps: Epsilon of the decoder's LayerNorms.
      attention: Implementation of the decoder's attention: "auto", "fused", "cudnn" or "reference";
        see `dot_product_attention`.
      remat: Whether the decoder's blocks are computed again in the backward pass; "offload": and
        what goes into each is kept in the memory of the host.
      dtype: Compute dtype; parameters and logits are float32 (float64 if this is).
    """

    vocab_size: int = 10_000
    width: int = 384
    depth: int = 6
    num_heads: int = 6
    hidden_width: int = 1536
    max_length: int = 50
    encoder: str | None = "vit_s16"
    encoder_options: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    image_size: int | tuple[int, int] | None = None
    feature_width: int | None = None
    memory: str = "grid"
    freeze_encoder: bool = False
    project_memory: bool | None = None
    norm_first: bool = True
    final_norm: bool | None = None
    position: str = "learned"
    activation: str = "gelu"
    tie_head: bool = True
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    norm_eps: float = 1e-5
    attention: str = "auto"
    remat: Remat = False
    dtype: str = "float32"

    def __post_init__(self):
        check_choice("memory", self.memory, MEMORIES)
        check_choice("position", self.position, POSITIONS)
        check_choice("activation", self.activation, tuple(ACTIVATIONS))
        check_implementation(self.attention)
        check_rates(self)
        for field in ("vocab_size", "width", "depth", "num_heads", "hidden_width", "max_length"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}.")
        if self.width % self.num_heads:
            raise ValueError(
                f"width {self.width} must be a multiple of num_heads {self.num_heads}."
            )
        if (self.encoder is None) != (self.feature_width is not None):
            raise ValueError(
                "A captioner has an encoder, or feature_width for features without one, got "
                f"encoder={self.encoder!r} and feature_width={self.feature_width}."
            )
        object.__setattr__(self, "encoder_options", hashable_options(self.encoder_options))

    @property
    def has_final_norm(self) -> bool:
        """Whether there is a norm before the head."""
        return self.norm_first if self.final_norm is None else self.final_norm


class Captioner(Model):
    """Writes what is in an image, word by word.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Raises:
      InputError: if the encoder is no image model of the registry, or a value does not fit it.

    Source: the decoder is that of the course CS231n, assignment 3, `CaptioningTransformer`, where
      the config says so.
    """

    config: CaptionerConfig
    weight_sources = "jaxvision.interop.captioner:SOURCES"

    def __init__(self, config: CaptionerConfig, *, rngs: nnx.Rngs):
        dtypes = layer_dtypes(config.dtype)
        self.config = config
        self.encoder = None if config.encoder is None else build_encoder(config, rngs)
        width = _feature_width(config, self.encoder)
        self.feature_width = width
        project = config.project_memory
        if project is None:
            project = width != config.width
        elif not project and width != config.width:
            raise InputError(
                f"Features have {width} channels and the decoder {config.width}: leave "
                "project_memory=False out, or make them equal."
            )
        self.visual_proj = linear(width, config.width, rngs=rngs, **dtypes) if project else None
        self.decoder = TransformerDecoder(
            config.vocab_size,
            config.width,
            depth=config.depth,
            num_heads=config.num_heads,
            hidden_width=config.hidden_width,
            max_length=config.max_length,
            norm_first=config.norm_first,
            final_norm=config.has_final_norm,
            position=config.position,
            activation=ACTIVATIONS[config.activation],
            tie_head=config.tie_head,
            dropout_rate=config.dropout_rate,
            attention_dropout_rate=config.attention_dropout_rate,
            norm_eps=config.norm_eps,
            attention=config.attention,
            remat=config.remat,
            rngs=rngs,
            **dtypes,
        )

    @property
    def frozen_prefixes(self) -> tuple[str, ...]:
        """First parts of the paths of the parameters that the model itself keeps as they are."""
        return ("encoder/",) if self.config.freeze_encoder else ()

    def __call__(
        self,
        inputs: Float[Array, "batch *space channels"],
        tokens: Int[Array, "batch targets"],
        *,
        token_mask: Bool[Array, "batch targets"] | None = None,
        memory_mask: Bool[Array, "batch sources"] | None = None,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch targets vocabulary"]:
        """Returns the logits of the word behind each token, which sees no later token.

        Args:
          inputs: Images or features, see `encode`.
          tokens: Indices of words, from `<START>` on.
          token_mask: Mask, False for tokens that no token may attend to.
          memory_mask: Mask, False for the parts of the memory that no token may attend to.
          train: Whether every kind of dropping is on, and the encoder runs as in training unless it
            is frozen.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.

        Raises:
          ValueError: if the inputs do not fit, or randomness is needed and `rngs` is None.
        """
        memory = self.encode(inputs, train=train, rngs=rngs)
        return self.decode_tokens(
            memory, tokens, token_mask=token_mask, memory_mask=memory_mask, train=train, rngs=rngs
        )

    def encode(
        self,
        inputs: Float[Array, "batch *space channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch sources width"]:
        """Returns the memory that the decoder looks at.

        Args:
          inputs: Normalised images [batch, height, width, 3]; without an encoder features [batch,
            sources, feature_width] or [batch, feature_width].
          train: Whether the encoder runs as in training, unless it is frozen.
          rngs: Source of randomness; needed only if `train` and some rate of the encoder is > 0.

        Raises:
          ValueError: if the inputs do not fit.
        """
        if self.encoder is None:
            self._check_features(inputs)
            features = inputs
        elif self.config.freeze_encoder:
            features = jax.lax.stop_gradient(
                image_features(self.encoder, inputs, self.config.memory)
            )
        else:
            features = image_features(
                self.encoder, inputs, self.config.memory, train=train, rngs=rngs
            )
        features = jax.lax.collapse(features, 1, -1)
        features = features.astype(self.config.dtype)
        return features if self.visual_proj is None else self.visual_proj(features)

    def decode_tokens(
        self,
        memory: Float[Array, "batch sources width"],
        tokens: Int[Array, "batch targets"],
        *,
        token_mask: Bool[Array, "batch targets"] | None = None,
        memory_mask: Bool[Array, "batch sources"] | None = None,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch targets vocabulary"]:
        """Returns the logits of the word behind each token; see `TransformerDecoder`."""
        return self.decoder(
            tokens, memory, token_mask=token_mask, memory_mask=memory_mask, train=train, rngs=rngs
        )

    def start(
        self,
        memory: Float[Array, "batch sources width"],
        *,
        num_beams: int,
        max_length: int,
        memory_mask: Bool[Array, "batch sources"] | None = None,
    ) -> Cache:
        """Returns the cache for `step`; see `TransformerDecoder.start`."""
        return self.decoder.start(
            memory, num_beams=num_beams, max_length=max_length, memory_mask=memory_mask
        )

    def step(
        self,
        cache: Cache,
        tokens: Int[Array, "batch rows"],
        position: Int[Array, ""],
        ancestry: Bool[Array, "batch rows positions rows"],
    ) -> tuple[Float[Array, "batch rows vocabulary"], Cache]:
        """Returns the next word's logits and the cache; see `TransformerDecoder.step`."""
        return self.decoder.step(cache, tokens, position, ancestry)

    def cross_attention(
        self, inputs: Float[Array, "batch *space channels"], tokens: Int[Array, "batch targets"]
    ) -> Float[Array, "layers batch heads targets sources"]:
        """Returns how much each token looks at each part of the image: each row sums to 1.

        Args:
          inputs: Images or features, see `encode`.
          tokens: Indices of words, from `<START>` on.
        """
        return self.decoder.cross_weights(tokens, self.encode(inputs))

    def grid_shape(self, inputs: jax.Array | jax.ShapeDtypeStruct) -> tuple[int, int] | None:
        """Returns rows and columns of the memory of images, None if it is no grid.

        Args:
          inputs: Images, or their shape and dtype.
        """
        if self.encoder is None or self.config.memory != "grid":
            return None
        rows, columns = jax.eval_shape(_last_map, self.encoder, inputs).shape[1:3]
        return rows, columns

    def _check_features(self, features: jax.Array) -> None:
        if features.ndim not in (2, 3) or features.shape[-1] != self.feature_width:
            raise ValueError(
                f"Expected features [batch, {self.feature_width}] or [batch, sources, "
                f"{self.feature_width}], got shape {features.shape}: a captioner for images needs "
                "an encoder."
            )


def image_features(
    encoder: ImageModel, images: jax.Array, memory: str, **how: Any
) -> Float[Array, "batch *space channels"]:
    """Returns what a decoder sees of images, or would see if it had this encoder.

    Args:
      encoder: Image model without a head.
      images: Normalised images [batch, height, width, 3].
      memory: Part of the features, see `CaptionerConfig`.
      **how: Further arguments of the model's call.
    """
    if memory == "grid":
        return _last_map(encoder, images, **how)
    return (encoder if memory == "pooled" else encoder.features)(images, **how)


def _feature_width(config: CaptionerConfig, encoder: ImageModel | None) -> int:
    """Returns the channels of the features, from the encoder or without one."""
    if encoder is None:
        assert config.feature_width is not None  # the config has checked it
        return config.feature_width
    size = getattr(encoder.config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    shape = (1, height, width, encoder.config.in_channels)
    images = jax.ShapeDtypeStruct(shape, config.dtype)
    return jax.eval_shape(lambda encoder, x: encoder.features(x), encoder, images).shape[-1]


def _last_map(encoder: ImageModel, images: jax.Array, **how: Any) -> jax.Array:
    """Returns the coarsest map of an image model, [batch, rows, columns, channels]."""
    return list(encoder.pyramid(images, **how).values())[-1]


def _spec(name: str, num_params: int, source: str, **options: Any) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="captioner",
        build=Captioner,
        config=CaptionerConfig(**options),
        image_size=224,
        preprocess=Preprocess(mean=HALF, std=HALF, interpolation="bicubic", crop_fraction=0.9),
        num_params=num_params,
        source=source,
        task="captioning",
    )


SPECS = (
    _spec(
        "captioner", 39_725_184, "Vaswani et al. 2017, figure 1; encoder: Dosovitskiy et al. 2021"
    ),
    _spec(
        "captioner_cs231n",
        3_803_884,
        "CS231n, assignment 3, CaptioningTransformer, for features of 512 channels",
        vocab_size=1004,
        width=256,
        depth=2,
        num_heads=4,
        hidden_width=2048,
        encoder=None,
        feature_width=512,
        project_memory=True,
        norm_first=False,
        position="sinusoidal",
        activation="relu",
        tie_head=False,
    ),
)
