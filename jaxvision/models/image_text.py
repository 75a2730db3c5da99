"""Encoders of images and of texts whose vectors are compared: CLIP, SigLIP, any trunk of ours."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxvision.errors import InputError
from jaxvision.layers.activation import GELUS
from jaxvision.layers.block_stack import build_blocks, run_blocks
from jaxvision.layers.dropout import draw_block_key
from jaxvision.layers.encoder_block import EncoderBlock
from jaxvision.layers.linear import linear
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.token_embed import TokenEmbed
from jaxvision.models.clip_vit import CLIP_PREPROCESS, SIGLIP_PREPROCESS
from jaxvision.models.encoder import build_encoder
from jaxvision.models.image_text_config import ImageTextConfig
from jaxvision.models.spec import (
    Model,
    ModelSpec,
    Preprocess,
    layer_dtypes,
    param_dtype,
)

MAX_LOG_SCALE = math.log(100.0)


class TextEncoder(nnx.Module):
    """A Transformer encoder that makes one vector of a text.

    Initial values as CLIP's: words normal 0.02, positions 0.01, kernels by width and depth.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: Radford et al. 2021, section 2.4.
    """

    def __init__(self, config: ImageTextConfig, *, rngs: nnx.Rngs):
        self.config, width = config, config.width
        dtypes: dict[str, Any] = layer_dtypes(config.dtype)
        self.embed = TokenEmbed(
            config.vocab_size,
            width,
            max_length=config.max_length,
            position="learned",
            dropout_rate=config.dropout_rate,
            rngs=rngs,
            **dtypes,
        )
        self.blocks = build_blocks(self._block, config.depth, scan=config.scan, rngs=rngs)
        self.norm = layer_norm(width, eps=config.norm_eps, rngs=rngs, **dtypes)
        self.head = linear(
            width,
            config.embed_width,
            use_bias=config.text_head_bias,
            kernel_init=jax.nn.initializers.normal(width**-0.5),
            rngs=rngs,
            **dtypes,
        )

    def _block(self, rngs: nnx.Rngs) -> EncoderBlock:
        config = self.config
        block = EncoderBlock(
            config.width,
            config.num_heads,
            mlp_ratio=config.mlp_ratio,
            activation=GELUS[config.activation],
            dropout_rate=config.dropout_rate,
            attention_dropout_rate=config.attention_dropout_rate,
            norm_eps=config.norm_eps,
            attention=config.attention,
            rngs=rngs,
            **layer_dtypes(config.dtype),
        )
        wide = config.width**-0.5
        deep = wide * (2 * config.depth) ** -0.5
        spreads = (
            (block.attn.query, wide),
            (block.attn.key, wide),
            (block.attn.value, wide),
            (block.attn.out, deep),
            (block.mlp.fc1, (2 * config.width) ** -0.5),
            (block.mlp.fc2, deep),
        )
        for layer, spread in spreads:
            kernel = layer.kernel[...]
            draw = jax.nn.initializers.normal(spread)
            layer.kernel[...] = draw(rngs.params(), kernel.shape, kernel.dtype)
        return block

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch embed_width"]:
        """Returns the vector of each text, of any length.

        Args:
          tokens: Numbers of the tokens, padded behind.
          train: Whether every kind of dropping is on.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.
        """
        config, length = self.config, tokens.shape[1]
        hidden = self.embed(tokens, train=train, rngs=rngs)
        mask = jnp.tril(jnp.ones((length, length), bool))[None, None] if config.causal else None
        key = draw_block_key(
            rngs, config.dropout_rate, config.attention_dropout_rate, train=train, what="dropout"
        )

        def step(block, hidden, rate, rngs):
            return block(hidden, mask=mask, train=train, rngs=rngs), None

        rates = (0.0,) * config.depth
        hidden, _ = run_blocks(self.blocks, hidden, step, rates=rates, key=key, remat=config.remat)
        if config.text_pool == "last":
            pooled = hidden[:, -1]
        else:
            ends = jnp.argmax(tokens == config.end_token, axis=1)
            pooled = jnp.take_along_axis(hidden, ends[:, None, None], axis=1)[:, 0]
        return self.head(self.norm(pooled))


class ImageText(Model):
    """Tells which text goes with which image, by the cosine of their vectors.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Raises:
      InputError: if the encoder is no image model of the registry, or its features are to be the
        vector and have another width.

    Source: Radford et al. 2021, Learning Transferable Visual Models From Natural Language
      Supervision, https://arxiv.org/abs/2103.00020; Zhai et al. 2023, Sigmoid Loss for Language
      Image Pre-Training, https://arxiv.org/abs/2303.15343.
    """

    config: ImageTextConfig
    weight_sources = "jaxvision.interop.image_text:SOURCES"
    not_decayed = frozenset({"logit_scale", "logit_bias"})

    def __init__(self, config: ImageTextConfig, *, rngs: nnx.Rngs):
        self.config, dtype = config, jnp.dtype(param_dtype(config.dtype))
        self.encoder = None if config.encoder is None else build_encoder(config, rngs)
        width = self._image_width()
        if not config.project_image and width != config.embed_width:
            raise InputError(
                f"The image's features have {width} channels and the vectors "
                f"{config.embed_width}: leave project_image=False out, or make them equal."
            )
        self.image_head = (
            linear(
                width,
                config.embed_width,
                use_bias=False,
                kernel_init=jax.nn.initializers.normal(width**-0.5),
                dtype=str(dtype),
                param_dtype=str(dtype),
                rngs=rngs,
            )
            if config.project_image
            else None
        )
        self.text = TextEncoder(config, rngs=rngs)
        sigmoid = config.loss == "sigmoid"
        start = math.log(10.0) if sigmoid else math.log(1 / 0.07)
        self.logit_scale = nnx.Param(jnp.asarray(start, dtype))
        self.logit_bias = nnx.Param(jnp.asarray(-10.0, dtype)) if sigmoid else None

    @property
    def frozen_prefixes(self) -> tuple[str, ...]:
        """First parts of the paths of the parameters that the model itself keeps as they are."""
        return ("encoder/",) if self.config.freeze_encoder else ()

    @property
    def upper_bounds(self) -> dict[str, float]:
        """Largest value of parameters by their name: CLIP's scale is at most 100."""
        return {"logit_scale": MAX_LOG_SCALE} if self.config.loss == "softmax" else {}

    def _image_width(self) -> int:
        encoder = self.encoder
        if encoder is None:
            assert self.config.feature_width is not None  # the config has checked it
            return self.config.feature_width
        size = getattr(encoder.config, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        shape = (1, height, width, encoder.config.in_channels)
        images = jax.ShapeDtypeStruct(shape, self.config.dtype)
        return jax.eval_shape(lambda encoder, x: encoder(x), encoder, images).shape[-1]

    def __call__(
        self,
        images: Float[Array, "images *space channels"],
        tokens: Int[Array, "texts length"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "images texts"]:
        """Returns how well each text goes with each image.

        Args:
          images: Images or features, see `embed_images`.
          tokens: Numbers of the tokens of each text, padded behind.
          train: Whether every kind of dropping is on, and the image encoder runs as in training.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.
        """
        return self.logits(
            self.embed_images(images, train=train, rngs=rngs),
            self.embed_texts(tokens, train=train, rngs=rngs),
        )

    def embed_images(
        self,
        inputs: Float[Array, "batch *space channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch embed_width"]:
        """Returns the vector of each image, of length 1.

        Args:
          inputs: Normalised images [batch, height, width, 3]; without an encoder features [batch,
            positions, feature_width], whose mean is taken, or [batch, feature_width].
          train: Whether the encoder runs as in training, unless it is frozen.
          rngs: Source of randomness; needed only if `train` and some rate of the encoder is > 0.

        Raises:
          ValueError: if the inputs do not fit.
        """
        config = self.config
        if self.encoder is None:
            if inputs.ndim not in (2, 3) or inputs.shape[-1] != config.feature_width:
                raise ValueError(
                    f"Expected features [batch, {config.feature_width}] or [batch, positions, "
                    f"{config.feature_width}], got shape {inputs.shape}: a model for images needs "
                    "an encoder."
                )
            features = inputs if inputs.ndim == 2 else jnp.mean(inputs, axis=1)
        elif config.freeze_encoder:
            features = jax.lax.stop_gradient(self.encoder(inputs))
        else:
            features = self.encoder(inputs, train=train, rngs=rngs)
        return _unit(features if self.image_head is None else self.image_head(features), config)

    def embed_texts(
        self,
        tokens: Int[Array, "batch length"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch embed_width"]:
        """Returns the vector of each text, of length 1.

        Args:
          tokens: Numbers of the tokens of each text, padded behind.
          train: Whether every kind of dropping is on.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.

        Raises:
          ValueError: if there are more tokens than positions.
        """
        return _unit(self.text(tokens, train=train, rngs=rngs), self.config)

    def logits(
        self,
        images: Float[Array, "images embed_width"],
        texts: Float[Array, "texts embed_width"],
    ) -> Float[Array, "images texts"]:
        """Returns the cosine of each pair of vectors, times the scale, plus the bias.

        Args:
          images: Vectors of `embed_images`.
          texts: Vectors of `embed_texts`.
        """
        logits = jnp.exp(self.logit_scale[...]) * (images @ texts.T)
        return logits if self.logit_bias is None else logits + self.logit_bias[...]


def _unit(vectors: jax.Array, config: ImageTextConfig) -> jax.Array:
    vectors = vectors.astype(param_dtype(config.dtype))
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


def _spec(
    name: str,
    num_params: int | None,
    source: str,
    *,
    hf: str | None = None,
    preprocess: Preprocess = CLIP_PREPROCESS,
    **options: Any,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="image_text",
        build=ImageText,
        config=ImageTextConfig(**options),
        image_size=224,
        preprocess=preprocess,
        num_params=num_params,
        source=source,
        hf=hf,
        task="image_text",
    )


_CLIP = "Radford et al. 2021, table 20"
_SIGLIP: dict[str, Any] = {
    "vocab_size": 32_000,
    "max_length": 64,
    "width": 768,
    "depth": 12,
    "num_heads": 12,
    "embed_width": 768,
    "project_image": False,
    "causal": False,
    "text_pool": "last",
    "end_token": 1,
    "text_head_bias": True,
    "loss": "sigmoid",
    "activation": "gelu_tanh",
    "norm_eps": 1e-6,
}
SPECS = (
    _spec("clip_vit_b32", 151_277_313, _CLIP, hf="openai/clip-vit-base-patch32"),
    _spec(
        "clip_vit_b16",
        149_620_737,
        _CLIP,
        encoder="vit_b16_clip",
        hf="openai/clip-vit-base-patch16",
    ),
    _spec(
        "clip_vit_l14",
        427_616_513,
        _CLIP,
        encoder="vit_l14_clip",
        width=768,
        num_heads=12,
        embed_width=768,
        hf="openai/clip-vit-large-patch14",
    ),
    _spec(
        "siglip_vit_b16_224",
        203_155_970,
        "Zhai et al. 2023, section 4",
        encoder="vit_b16_siglip",
        hf="google/siglip-base-patch16-224",
        preprocess=SIGLIP_PREPROCESS,
        **_SIGLIP,
    ),
    _spec(
        "image_text",
        None,
        "The same at a size for two cores: a small trunk beside a small text encoder",
        vocab_size=1_000,
        max_length=32,
        width=128,
        depth=2,
        num_heads=4,
        embed_width=128,
        encoder="vit_ti16",
        end_token=2,
        activation="gelu",
    ),
)
