"""Vision Transformer: patches as words, an encoder of pre-norm blocks, one linear head."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.activation import GELUS
from jaxvision.layers.attention import pad_tokens
from jaxvision.layers.attention_pool import AttentionPool
from jaxvision.layers.block_stack import build_blocks, run_blocks
from jaxvision.layers.drop_path import drop_path_rates
from jaxvision.layers.dropout import draw_block_key, dropout
from jaxvision.layers.encoder_block import EncoderBlock
from jaxvision.layers.initializer import trunc_normal
from jaxvision.layers.linear import linear
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.over_batch import over_batch
from jaxvision.layers.patch import ConvStem, PatchEmbed, prepend_tokens
from jaxvision.layers.position import resize_position_embedding, sincos_2d
from jaxvision.layers.window import local_mask
from jaxvision.models.block_model import BlockModel
from jaxvision.models.image_model import LayerGroups
from jaxvision.models.spec import (
    HALF,
    HFPeer,
    ModelSpec,
    Preprocess,
    check_images,
    layer_dtypes,
    param_dtype,
)
from jaxvision.models.vit_config import ViTConfig


class ViT(BlockModel):
    """Vision Transformer.

    Initial values as timm and DeiT: linear kernels and positions trunc-normal 0.02, biases 0, class
    token trunc-normal 1e-6. The patch kernel is LeCun normal as in torchvision.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words,
      https://arxiv.org/abs/2010.11929.
    """

    config: ViTConfig
    weight_sources = "jaxvision.interop.vit:SOURCES"
    not_decayed = frozenset({"reg_token"})
    layer_groups = LayerGroups(with_head="pooler/")
    head_dropout = "head_dropout_rate"
    stage_tap = "tokens"

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config, dtypes = config, layer_dtypes(config.dtype)
        self.patch_embed = self._stem(rngs)
        self.cls_token = self._table(1, 1e-6, rngs) if config.class_token else None
        count = config.num_registers
        self.reg_token = self._table(count, 1e-6, rngs) if count else None
        num_positions = config.num_prefix_positions + config.grid[0] * config.grid[1]
        learned = config.position == "learned"
        self.pos_embed = self._table(num_positions, 0.02, rngs) if learned else None
        norm = functools.partial(layer_norm, config.width, eps=config.norm_eps, **dtypes)
        self.norm_pre = norm(rngs=rngs) if config.pre_norm else None
        self.blocks = build_blocks(self._block, config.depth, scan=config.scan, rngs=rngs)
        self.norm = norm(rngs=rngs)
        self.attn_pool = self._attention_pool(rngs) if config.pool == "attention" else None
        init = trunc_normal(0.02)
        self.pooler = (
            linear(config.width, config.width, kernel_init=init, rngs=rngs, **dtypes)
            if config.pooler
            else None
        )
        self.head = self._head(rngs)

    def _stem(self, rngs: nnx.Rngs) -> Any:
        """Returns what makes the grid of tokens; a hybrid has another one."""
        config, dtypes = self.config, layer_dtypes(self.config.dtype)
        if config.stem == "patch":
            stem = functools.partial(PatchEmbed, use_bias=not config.pre_norm)
        else:
            stem = ConvStem
        size = config.patch_size
        return stem(config.in_channels, config.width, patch_size=size, rngs=rngs, **dtypes)

    def _head(self, rngs: nnx.Rngs) -> nnx.Linear | None:
        zeros = jax.nn.initializers.zeros
        init = zeros if self.config.zero_init_head else trunc_normal(0.02)
        return self.new_head(self.config.width, init, rngs)

    def _attention_pool(self, rngs: nnx.Rngs) -> AttentionPool:
        config = self.config
        return AttentionPool(
            config.width,
            config.num_heads,
            mlp_ratio=config.mlp_ratio,
            activation=GELUS[config.activation],
            norm_eps=config.norm_eps,
            attention=config.attention,
            rngs=rngs,
            **layer_dtypes(config.dtype),
        )

    def _prefix(self) -> list[nnx.Variable]:
        """Returns the learned tokens that stand before the patches."""
        return [token for token in (self.cls_token, self.reg_token) if token is not None]

    def _block(self, rngs: nnx.Rngs) -> EncoderBlock:
        config = self.config
        return EncoderBlock(
            config.width,
            config.num_heads,
            mlp_ratio=config.mlp_ratio,
            gated_mlp=config.gated_mlp,
            activation=GELUS[config.activation],
            dropout_rate=config.dropout_rate,
            attention_dropout_rate=config.attention_dropout_rate,
            layer_scale_init=config.layer_scale_init,
            norm_eps=config.norm_eps,
            attention=config.attention,
            rngs=rngs,
            **layer_dtypes(config.dtype),
        )

    def _table(self, num_tokens: int, stddev: float, rngs: nnx.Rngs) -> nnx.Param:
        shape = (1, num_tokens, self.config.width)
        dtype = jnp.dtype(param_dtype(self.config.dtype))
        return nnx.Param(trunc_normal(stddev)(rngs.params(), shape, dtype))

    def pool(
        self, features: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch channels"]:
        """Returns what is pooled of the tokens, normalised, and through a pooler."""
        if self.attn_pool is not None:
            pooled = self.attn_pool(features[:, self.config.num_prefix_tokens :])
        elif self.config.pool == "token":
            pooled = features[:, 0]
        else:
            pooled = jnp.mean(features[:, self.config.num_prefix_tokens :], axis=1)
        if not self.config.norm_first:
            pooled = self.norm(pooled)
        return pooled if self.pooler is None else jnp.tanh(self.pooler(pooled))

    def trunk(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch tokens features"], dict[int, jax.Array]]:
        """Returns the tokens after the final norm, those before the patches first, and their map.

        The one map holds the patches among the tokens; its stride is the patch size. Where the norm
        comes after the pooling (`fc_norm`), neither is normalised.

        The images may have any size that is a whole number of patches.
        """
        config = self.config
        tokens, mask, key = self._embed(images, train=train, rngs=rngs)

        count = tokens.shape[1]
        tokens, _, mask = pad_tokens(
            tokens,
            mask=mask,
            num_heads=config.num_heads,
            implementation=config.attention,
            drops=train and config.attention_dropout_rate > 0.0,
        )

        def step(block, tokens, rate, rngs):
            options = {"mask": mask, "num_tokens": count, "drop_path_rate": rate}
            return block(tokens, **options, train=train, rngs=rngs), None

        rates = drop_path_rates(config.drop_path_rate, config.depth)
        tokens, _ = run_blocks(self.blocks, tokens, step, rates=rates, key=key, remat=config.remat)
        tokens = tokens[:, :count]
        if config.norm_first:
            tokens = self.norm(tokens)
        size, prefix = config.patch_size, config.num_prefix_tokens
        grid = images.shape[1] // size, images.shape[2] // size
        return tokens, {size: tokens[:, prefix:].reshape(len(images), *grid, config.width)}

    def attention_maps(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "depth batch heads tokens tokens"]:
        """Returns the attention weights of every block in evaluation: each row sums to 1.

        Args:
          images: Normalised images of any size that is a whole number of patches.
        """
        tokens, mask, _ = self._embed(images, train=False, rngs=None)

        def step(block, tokens, rate, rngs):
            weights = block.attn.weights(block.norm1(tokens), mask=mask)
            return block(tokens, mask=mask), weights

        rates = (0.0,) * self.config.depth
        return run_blocks(self.blocks, tokens, step, rates=rates)[1]

    def _embed(
        self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
        """Returns the tokens with positions, the attention mask, and the key of the blocks."""
        config = self.config
        check_images(images, config.in_channels)
        tokens = self.patch_embed(images, train=train)
        rows, columns = tokens.shape[1:3]
        tokens = prepend_tokens(self._prefix(), tokens)
        tokens = tokens + over_batch(
            self._positions(rows, columns).astype(tokens.dtype), len(tokens)
        )
        tokens = dropout(tokens, config.dropout_rate, train=train, rngs=rngs)
        if self.norm_pre is not None:
            tokens = self.norm_pre(tokens)
        key = draw_block_key(rngs, *config.block_rates, train=train)
        return tokens, self._mask(rows, columns), key

    def _positions(self, rows: int, columns: int) -> jax.Array:
        config = self.config
        if self.pos_embed is not None:
            given = config.num_prefix_positions
            table = resize_position_embedding(
                self.pos_embed[...], config.grid, (rows, columns), num_prefix_tokens=given
            )
        else:
            given = 0
            table = jnp.asarray(sincos_2d(rows, columns, config.width), config.dtype)[None]
        # A class token without a place gets a position of zeros.
        return jnp.pad(table, ((0, 0), (config.num_prefix_tokens - given, 0), (0, 0)))

    def _mask(self, rows: int, columns: int) -> jax.Array | None:
        if self.config.local_window is None:
            return None
        mask = jnp.asarray(local_mask(rows, columns, self.config.local_window))
        # The class token sees all and is seen by all.
        before = (self.config.num_prefix_tokens, 0)
        return jnp.pad(mask, (before, before), constant_values=True)[None, None]


SIZES: dict[str, dict[str, Any]] = {
    "ti": {"width": 192, "depth": 12, "num_heads": 3},
    "s": {"width": 384, "depth": 12, "num_heads": 6},
    "b": {"width": 768, "depth": 12, "num_heads": 12},
    "l": {"width": 1024, "depth": 24, "num_heads": 16},
    "h": {"width": 1280, "depth": 32, "num_heads": 16},
    "g": {"width": 1408, "depth": 40, "num_heads": 16, "mlp_ratio": 48 / 11},
}


def eval_transform(image_size: int) -> Preprocess:
    """Returns the preprocessing of the weights that were published first, by Google."""
    fraction = 0.9 if image_size == 224 else 1.0
    return Preprocess(mean=HALF, std=HALF, interpolation="bicubic", crop_fraction=fraction)


def _spec(
    size: str,
    patch_size: int,
    num_params: int,
    timm: str,
    torchvision: str | None = None,
    image_size: int = 224,
) -> ModelSpec:
    return ModelSpec(
        name=f"vit_{size}{patch_size}" + ("" if image_size == 224 else f"_{image_size}"),
        family="vit",
        build=ViT,
        config=ViTConfig(patch_size=patch_size, image_size=image_size, **SIZES[size]),
        image_size=image_size,
        preprocess=eval_transform(image_size),
        num_params=num_params,
        source="Dosovitskiy et al. 2021, table 1; Ti and S: Steiner et al. 2021, table 2; "
        "g: Zhai et al. 2022, table 2",
        timm=timm,
        torchvision=torchvision,
        torchvision_arguments=lambda config: {"image_size": config.image_size},
    )


def _hf_fields(config: ViTConfig) -> dict[str, Any]:
    """Returns the fields of the config in transformers."""
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": int(config.width * config.mlp_ratio),
        "patch_size": config.patch_size,
        "image_size": config.image_size,
        "layer_norm_eps": config.norm_eps,
    }


_B16 = _spec("b", 16, 86_567_656, "vit_base_patch16_224", "vit_b_16")

SPECS = (
    _spec("ti", 16, 5_717_416, "vit_tiny_patch16_224"),
    _spec("s", 16, 22_050_664, "vit_small_patch16_224"),
    _spec("s", 32, 22_878_952, "vit_small_patch32_224"),
    _spec("b", 8, 86_576_872, "vit_base_patch8_224"),
    _B16,
    # transformers divides by the root of variance + 1e-12, and squeezes the image to a square.
    dataclasses.replace(
        _B16,
        name="vit_b16_hf",
        config=dataclasses.replace(_B16.config, norm_eps=1e-12),
        preprocess=Preprocess(mean=HALF, std=HALF, crop_fraction=1.0),
        timm=None,
        torchvision=None,
        hf="google/vit-base-patch16-224",
        hf_peer=HFPeer("ViT", _hf_fields),
    ),
    _spec("b", 16, 86_859_496, "vit_base_patch16_384", image_size=384),
    _spec("b", 32, 88_224_232, "vit_base_patch32_224", "vit_b_32"),
    _spec("l", 16, 304_326_632, "vit_large_patch16_224", "vit_l_16"),
    _spec("l", 32, 306_535_400, "vit_large_patch32_224", "vit_l_32"),
    _spec("h", 14, 632_045_800, "vit_huge_patch14_224", "vit_h_14"),
    _spec("g", 14, 1_012_611_432, "vit_giant_patch14_224"),
)
