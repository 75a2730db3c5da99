"""Masked autoencoder: a Vision Transformer sees a quarter of the patches, a small one the rest."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxvision.layers.block_stack import Remat, build_blocks, run_blocks
from jaxvision.layers.drop_path import drop_path_rates
from jaxvision.layers.dropout import draw_block_key
from jaxvision.layers.encoder_block import EncoderBlock
from jaxvision.layers.initializer import redraw_kernels
from jaxvision.layers.linear import linear
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.over_batch import over_batch
from jaxvision.layers.position import sincos_2d
from jaxvision.models.spec import ModelSpec, Preprocess, check_images, layer_dtypes, param_dtype
from jaxvision.models.vit import SIZES, ViT, ViTConfig

_XAVIER = jax.nn.initializers.xavier_uniform()
_NORMAL = jax.nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAEConfig(ViTConfig):
    """Every choice of a masked autoencoder; the encoder's are those of `ViTConfig`.

    Attributes:
      num_classes: 0; a classifier is fine-tuned as a Vision Transformer.
      decoder_width: Number of channels of a token of the decoder.
      decoder_depth: Number of blocks of the decoder.
      decoder_num_heads: Number of attention heads of the decoder.
      mask_ratio: Share of the patches that the encoder does not see, in [0, 1).
      norm_pixels: Whether the pixels of each patch are normalised before they are compared.
    """

    num_classes: int = 0
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    mask_ratio: float = 0.75
    norm_pixels: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.num_classes:
            raise ValueError(
                f"A masked autoencoder has no classes, got num_classes={self.num_classes}: "
                "fine-tune a vit_* with init_from=<its run>."
            )
        if not self.class_token or not self.class_token_position or self.position != "learned":
            raise ValueError(
                "A masked autoencoder keeps its fixed positions in a table, with a row for the "
                "class token: leave class_token, class_token_position and position as they are."
            )
        plain = {"stem": "patch", "local_window": None, "activation": "gelu", "pre_norm": False}
        changed = [name for name, value in plain.items() if getattr(self, name) != value]
        if changed or self.pool == "attention":
            raise ValueError(
                "A masked autoencoder is a plain Vision Transformer that sees patches alone, and "
                f"each sees all: leave {', '.join(changed) or 'pool'} as it is."
            )
        if not 0 < self.mask_ratio < 1:
            raise ValueError(
                f"mask_ratio is the share of the patches that are masked, above 0 and below 1, got"
                f" {self.mask_ratio}."
            )
        if self.num_visible < 1 or self.num_visible == self.num_patches:
            raise ValueError(
                f"mask_ratio={self.mask_ratio} leaves {self.num_visible} of {self.num_patches} "
                "patches to see: at least one must be seen, and at least one masked."
            )

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def num_visible(self) -> int:
        """Patches that the encoder sees; rounded down as in the paper's code."""
        return int(self.num_patches * (1 - self.mask_ratio))


class Decoder(nnx.Module):
    """Guesses all patches from the tokens of those that were seen.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.
    """

    def __init__(self, config: MAEConfig, *, rngs: nnx.Rngs):
        dtypes, width = layer_dtypes(config.dtype), config.decoder_width
        make: dict[str, Any] = {"kernel_init": _XAVIER, "rngs": rngs, **dtypes}
        self.embed = linear(config.width, width, **make)
        self.mask_token = nnx.Param(_NORMAL(rngs.params(), (1, 1, width), dtypes["param_dtype"]))
        self.pos_embed = nnx.Param(_positions(config, width))

        def block(rngs: nnx.Rngs) -> EncoderBlock:
            block = EncoderBlock(
                width,
                config.decoder_num_heads,
                mlp_ratio=config.mlp_ratio,
                norm_eps=config.norm_eps,
                attention=config.attention,
                rngs=rngs,
                **dtypes,
            )
            redraw_kernels(block, _XAVIER, rngs)
            return block

        self.blocks = build_blocks(block, config.decoder_depth, scan=config.scan, rngs=rngs)
        self.norm = layer_norm(width, eps=config.norm_eps, rngs=rngs, **dtypes)
        self.head = linear(width, config.patch_size**2 * config.in_channels, **make)
        self.depth = config.decoder_depth
        self.remat: Remat = config.remat

    def __call__(
        self, tokens: Float[Array, "batch visible width"], restore: Int[Array, "batch patches"]
    ) -> Float[Array, "batch patches pixels"]:
        """Returns the guessed pixels of every patch.

        Args:
          tokens: Tokens of the encoder, the class token first.
          restore: Place of each patch among those seen and then those masked.
        """
        tokens = self.embed(tokens)
        prefix, seen = tokens[:, :1], tokens[:, 1:]
        shape = (len(tokens), restore.shape[1] - seen.shape[1], tokens.shape[2])
        masked = jnp.broadcast_to(self.mask_token[...].astype(tokens.dtype), shape)
        patches = _take(jnp.concatenate([seen, masked], axis=1), restore)
        tokens = jnp.concatenate([prefix, patches], axis=1)
        tokens = tokens + over_batch(self.pos_embed[...].astype(tokens.dtype), len(tokens))
        rates = (0.0,) * self.depth
        tokens, _ = run_blocks(self.blocks, tokens, _plain_step, rates=rates, remat=self.remat)
        return self.head(self.norm(tokens[:, 1:]))


class MaskedAutoencoder(ViT):
    """Masked autoencoder; called on images, it is its encoder on all patches, without a head.

    Initial values as in the paper's code: Xavier uniform kernels, tokens normal 0.02, positions
    fixed 2-D sinusoids.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: He et al. 2022, Masked Autoencoders Are Scalable Vision Learners,
      https://arxiv.org/abs/2111.06377.
    """

    config: MAEConfig
    cls_token: nnx.Param
    pos_embed: nnx.Param
    weight_sources = "jaxvision.interop.mae:SOURCES"
    frozen_prefixes = ("pos_embed", "decoder/pos_embed")
    not_decayed = frozenset({"mask_token"})

    def __init__(self, config: MAEConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        kernel = self.patch_embed.kernel[...]
        flat = _XAVIER(rngs.params(), (kernel[..., 0].size, config.width), kernel.dtype)
        self.patch_embed.kernel[...] = flat.reshape(kernel.shape)
        dtype = self.cls_token[...].dtype
        self.cls_token[...] = _NORMAL(rngs.params(), (1, 1, config.width), dtype)
        self.pos_embed[...] = _positions(config, config.width)
        self.decoder = Decoder(config, rngs=rngs)

    def _block(self, rngs: nnx.Rngs) -> EncoderBlock:
        block = super()._block(rngs)
        redraw_kernels(block, _XAVIER, rngs)
        return block

    def reconstruct(
        self,
        images: Float[Array, "batch height width channels"],
        noise: Float[Array, "batch patches"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch patches pixels"], Bool[Array, "batch patches"]]:
        """Returns the guess of every patch, and which of them were masked.

        Args:
          images: Normalised images of the size that the positions are made for.
          noise: A number for each patch; those with the smallest are seen.
          train: Whether every kind of dropping is on.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.

        Raises:
          ValueError: if the images or the noise do not fit.
        """
        config = self.config
        check_images(images, config.in_channels)
        if images.shape[1:3] != config.image_shape or noise.shape[1] != config.num_patches:
            raise ValueError(
                f"A masked autoencoder for images of {config.image_shape} pixels has "
                f"{config.num_patches} patches, got images of {images.shape[1:3]} and noise for "
                f"{noise.shape[1]}."
            )
        patches = self.patch_embed(images, train=train)
        patches = patches.reshape(len(images), -1, config.width)
        positions = self.pos_embed[...].astype(patches.dtype)
        patches = patches + over_batch(positions[:, 1:], len(images))

        order = jnp.argsort(noise, axis=1)
        restore = jnp.argsort(order, axis=1)
        seen = _take(patches, order[:, : config.num_visible])
        first = self.cls_token[...].astype(patches.dtype) + positions[:, :1]
        tokens = jnp.concatenate([over_batch(first, len(images)), seen], axis=1)
        key = draw_block_key(rngs, *config.block_rates, train=train)

        def step(block, tokens, rate, rngs):
            return block(tokens, drop_path_rate=rate, train=train, rngs=rngs), None

        rates = drop_path_rates(config.drop_path_rate, config.depth)
        tokens, _ = run_blocks(self.blocks, tokens, step, rates=rates, key=key, remat=config.remat)
        pixels = self.decoder(self.norm(tokens), restore)
        return pixels.astype(param_dtype(config.dtype)), restore >= config.num_visible

    def losses(
        self,
        pixels: Float[Array, "batch patches pixels"],
        masked: Bool[Array, "batch patches"],
        images: Float[Array, "batch height width channels"],
    ) -> Float[Array, " batch"]:
        """Returns the mean squared error of each image over its masked patches.

        Args:
          pixels: Guess of `reconstruct`.
          masked: Mask of `reconstruct`, True where a patch was not seen.
          images: Images that were guessed.
        """
        target = self.target(images).astype(pixels.dtype)
        errors = jnp.mean(jnp.square(pixels - target), axis=-1)
        return jnp.sum(jnp.where(masked, errors, 0.0), axis=1) / jnp.sum(masked, axis=1)

    def target(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch patches pixels"]:
        """Returns what `reconstruct` guesses: the pixels of each patch, row by row, channels last.

        Args:
          images: Normalised images.
        """
        patches = _patches(images, self.config.patch_size)
        if not self.config.norm_pixels:
            return patches
        mean, deviation = _moments(patches)
        return (patches - mean) / deviation

    def pictures(
        self,
        pixels: Float[Array, "batch patches pixels"],
        images: Float[Array, "batch height width channels"],
    ) -> Float[Array, "batch height width channels"]:
        """Returns guessed pixels as normalised images.

        A guess of normalised pixels gets mean and deviation of the true patch.

        Args:
          pixels: Guess of `reconstruct`.
          images: Images that were guessed.
        """
        if self.config.norm_pixels:
            mean, deviation = _moments(_patches(images, self.config.patch_size))
            pixels = pixels * deviation + mean
        size, (rows, columns) = self.config.patch_size, self.config.grid
        pixels = pixels.reshape(len(images), rows, columns, size, size, -1)
        return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(images.shape)

    def spread_mask(
        self, masked: Bool[Array, "batch patches"]
    ) -> Bool[Array, "batch height width 1"]:
        """Returns the mask of `reconstruct` for every pixel."""
        grid = masked.reshape(len(masked), *self.config.grid, 1)
        size = self.config.patch_size
        return jnp.repeat(jnp.repeat(grid, size, axis=1), size, axis=2)


def _plain_step(block: Any, tokens: Any, rate: Any, rngs: Any) -> tuple[Any, None]:
    del rate, rngs
    return block(tokens), None


def _positions(config: MAEConfig, width: int) -> jax.Array:
    """Returns the table of fixed positions, [1, 1 + patches, width]; zeros for the class token."""
    table = sincos_2d(*config.grid, width, with_longest=False)
    return jnp.pad(jnp.asarray(table, param_dtype(config.dtype)), ((1, 0), (0, 0)))[None]


def _take(tokens: jax.Array, places: jax.Array) -> jax.Array:
    """Returns the tokens [batch, tokens, width] at some places [batch, taken]."""
    return jnp.take_along_axis(tokens, places[..., None], axis=1, mode="promise_in_bounds")


def _patches(images: jax.Array, size: int) -> jax.Array:
    batch, height, width, channels = images.shape
    patches = images.reshape(batch, height // size, size, width // size, size, channels)
    patches = patches.transpose(0, 1, 3, 2, 4, 5)  # batch rows columns size size channels
    return patches.reshape(batch, -1, size * size * channels)


def _moments(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and deviation of the pixels of each patch, all channels together."""
    mean = jnp.mean(patches, axis=-1, keepdims=True)
    variance = jnp.var(patches, axis=-1, ddof=1, keepdims=True)
    return mean, jnp.sqrt(variance + 1e-6)


def _spec(name: str, size: str, patch_size: int, num_params: int, hf: str | None) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="mae",
        build=MaskedAutoencoder,
        config=MAEConfig(patch_size=patch_size, **SIZES[size]),
        image_size=224,
        # Resize and crop are those of the fine-tuning in the paper's code.
        preprocess=Preprocess(interpolation="bicubic"),
        num_params=num_params,
        source="He et al. 2022, section 4",
        hf=hf,
        task="masked_autoencoding",
    )


SPECS = (
    _spec("mae_vit_b16", "b", 16, 111_907_840, "facebook/vit-mae-base"),
    _spec("mae_vit_l16", "l", 16, 329_541_888, "facebook/vit-mae-large"),
    _spec("mae_vit_h14", "h", 14, 657_074_508, "facebook/vit-mae-huge"),
    dataclasses.replace(
        _spec("mae_vit_s16", "s", 16, 0, None),
        num_params=None,
        config=MAEConfig(
            patch_size=16,
            decoder_width=256,
            decoder_depth=4,
            decoder_num_heads=8,
            **SIZES["s"],
        ),
        source="The same at the width of DeiT-S, with a decoder of half the width and depth",
    ),
)
