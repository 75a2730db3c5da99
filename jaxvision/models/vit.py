"""Vision Transformer: patches as words, an encoder of pre-norm blocks, one linear head."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.errors import check_choice
from jaxvision.layers.attention import check_implementation
from jaxvision.layers.block_stack import Remat, build_blocks, run_blocks
from jaxvision.layers.drop_path import drop_path_rates
from jaxvision.layers.dropout import draw_key, dropout
from jaxvision.layers.encoder_block import EncoderBlock
from jaxvision.layers.head import linear_head
from jaxvision.layers.initializer import trunc_normal
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.patch import ConvStem, PatchEmbed, check_divisible
from jaxvision.layers.position import resize_position_embedding, sincos_2d
from jaxvision.layers.window import local_mask
from jaxvision.models.image_model import ImageModel
from jaxvision.models.spec import (
    HALF,
    ModelSpec,
    Preprocess,
    check_images,
    check_rate,
    layer_dtypes,
    param_dtype,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Every choice of a Vision Transformer.

    Attributes:
      width: channels of a token.
      depth: number of blocks.
      num_heads: attention heads.
      patch_size: side of a patch in pixels.
      image_size: pixels that the position table is made for: side, or (height, width).
      in_channels: channels of the image.
      num_classes: outputs of the head; 0: no head, the call returns the pooled features.
      mlp_ratio: hidden channels of the MLP / width.
      pool: "token" (the class token after the final norm) or "average" (the mean of the patches,
        the norm after it: timm's global_pool="avg" with fc_norm).
      class_token: whether there is one; "average" can do without.
      class_token_position: whether the class token has a row in the table of learned positions.
      position: "learned" or "sincos2d" (fixed).
      stem: "patch" (one linear map) or "conv" (3x3 convolutions of stride 2, for small runs).
      dropout_rate: after the positions, the attention's projection and both layers of the MLP.
      attention_dropout_rate: of attention weights.
      drop_path_rate: of the last block's branches; rises linearly from 0.
      layer_scale_init: starting value of LayerScale; None: no LayerScale.
      local_window: let a patch attend only to the k x k patches around it; None: to all.
      norm_eps: of every LayerNorm.
      zero_init_head: start with logits of 0.
      attention: "fused", "reference" or "cudnn"; see `dot_product_attention`.
      remat: compute each block again in the backward pass instead of keeping its activations;
        "offload": and keep what goes into each in the memory of the host.
      scan: keep the blocks stacked and run them by `jax.lax.scan`; False: a list and a loop.
      dtype: compute dtype; parameters and logits are float32 (float64 if this is).
    """

    width: int
    depth: int
    num_heads: int
    patch_size: int
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    num_classes: int = 1000
    mlp_ratio: float = 4.0
    pool: str = "token"
    class_token: bool = True
    class_token_position: bool = True
    position: str = "learned"
    stem: str = "patch"
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    layer_scale_init: float | None = None
    local_window: int | None = None
    norm_eps: float = 1e-6
    zero_init_head: bool = False
    attention: str = "fused"
    remat: Remat = False
    scan: bool = True
    dtype: str = "float32"

    STEMS: ClassVar[tuple[str, ...]] = ("patch", "conv")

    def __post_init__(self):
        check_choice("pool", self.pool, ("token", "average"))
        check_choice("position", self.position, ("learned", "sincos2d"))
        check_choice("stem", self.stem, self.STEMS)
        check_implementation(self.attention)
        check_rate("dropout_rate", self.dropout_rate)
        check_rate("attention_dropout_rate", self.attention_dropout_rate)
        check_rate("drop_path_rate", self.drop_path_rate)
        if self.pool == "token" and not self.class_token:
            raise ValueError("pool='token' needs class_token=True; without one use pool='average'.")
        check_divisible(*self.image_shape, self.patch_size)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches."""
        return 1 if self.class_token else 0

    @property
    def num_prefix_positions(self) -> int:
        """Rows of the table of learned positions before those of the patches."""
        return self.num_prefix_tokens if self.class_token_position else 0


class ViT(ImageModel):
    """Vision Transformer.

    Initial values as timm and DeiT: linear kernels and positions trunc-normal 0.02, biases 0, class
    token trunc-normal 1e-6. The patch kernel is LeCun normal as in torchvision.

    Args:
      config: every choice.
      rngs: source of the initial values.

    Source: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words,
      https://arxiv.org/abs/2010.11929.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.patch_embed = self._stem(rngs)
        self.cls_token = self._table(1, 1e-6, rngs) if config.class_token else None
        num_positions = config.num_prefix_positions + config.grid[0] * config.grid[1]
        learned = config.position == "learned"
        self.pos_embed = self._table(num_positions, 0.02, rngs) if learned else None
        self.blocks = build_blocks(self._block, config.depth, scan=config.scan, rngs=rngs)
        self.norm = layer_norm(
            config.width, eps=config.norm_eps, rngs=rngs, **layer_dtypes(config.dtype)
        )
        self.head = self._head(rngs)

    def _stem(self, rngs: nnx.Rngs) -> Any:
        """Returns what makes the grid of tokens; a hybrid has another one."""
        config = self.config
        stem = PatchEmbed if config.stem == "patch" else ConvStem
        return stem(
            config.in_channels,
            config.width,
            patch_size=config.patch_size,
            rngs=rngs,
            **layer_dtypes(config.dtype),
        )

    def _head(self, rngs: nnx.Rngs) -> nnx.Linear | None:
        config = self.config
        zeros = jax.nn.initializers.zeros
        return linear_head(
            config.width,
            config.num_classes,
            kernel_init=zeros if config.zero_init_head else trunc_normal(0.02),
            param_dtype=param_dtype(config.dtype),
            rngs=rngs,
        )

    def _prefix(self) -> list[nnx.Param]:
        """Returns the learned tokens that stand before the patches."""
        return [] if self.cls_token is None else [self.cls_token]

    def _block(self, rngs: nnx.Rngs) -> EncoderBlock:
        config = self.config
        return EncoderBlock(
            config.width,
            config.num_heads,
            mlp_ratio=config.mlp_ratio,
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

    def classify(
        self,
        features: Float[Array, "batch tokens features"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch outputs"]:
        """Returns the logits, or what the head would read, of what `features` returned."""
        del train, rngs
        if self.config.pool == "token":
            pooled = features[:, 0]
        else:
            pooled = self.norm(jnp.mean(features[:, self.config.num_prefix_tokens :], axis=1))
        pooled = pooled.astype(param_dtype(self.config.dtype))
        return pooled if self.head is None else self.head(pooled)

    def features(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch tokens features"]:
        """Returns the tokens after the final norm, those before the patches first.

        With pool="average" the norm comes after the pooling, so these tokens are not normalised.

        Args:
          images: normalised; any size that is a whole number of patches.
          train: turns every kind of dropping on.
          rngs: needed only if `train` and some rate is > 0.
        """
        tokens, mask, key = self._embed(images, train=train, rngs=rngs)

        def step(block, tokens, rate, rngs):
            return block(tokens, mask=mask, drop_path_rate=rate, train=train, rngs=rngs), None

        rates = drop_path_rates(self.config.drop_path_rate, self.config.depth)
        tokens, _ = run_blocks(
            self.blocks, tokens, step, rates=rates, key=key, remat=self.config.remat
        )
        return self.norm(tokens) if self.config.pool == "token" else tokens

    def trunk(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch tokens features"], dict[int, jax.Array]]:
        """Returns what `features` and what `pyramid` return, of one pass; see there."""
        tokens = self.features(images, train=train, rngs=rngs)
        patches = tokens[:, self.config.num_prefix_tokens :]
        size = self.config.patch_size
        rows, columns = images.shape[1] // size, images.shape[2] // size
        return tokens, {size: patches.reshape(len(images), rows, columns, self.config.width)}

    def pyramid(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> dict[int, jax.Array]:
        """Returns {patch size: map}: the patches of `features`, [batch, rows, columns, width].

        Args:
          images: normalised; any size that is a whole number of patches.
          train: turns every kind of dropping on.
          rngs: needed only if `train` and some rate is > 0.
        """
        return self.trunk(images, train=train, rngs=rngs)[1]

    def attention_maps(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "depth batch heads tokens tokens"]:
        """Returns the attention weights of every block in evaluation: each row sums to 1.

        Args:
          images: normalised; any size that is a whole number of patches.
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
        batch, rows, columns, width = tokens.shape
        tokens = tokens.reshape(batch, rows * columns, width)
        prefix = [
            jnp.broadcast_to(token[...].astype(tokens.dtype), (batch, 1, width))
            for token in self._prefix()
        ]
        tokens = jnp.concatenate([*prefix, tokens], axis=1)
        tokens = tokens + self._positions(rows, columns).astype(tokens.dtype)
        tokens = dropout(tokens, config.dropout_rate, train=train, rngs=rngs)
        drops = max(config.dropout_rate, config.attention_dropout_rate, config.drop_path_rate) > 0.0
        key = draw_key(rngs, "dropout or drop path") if train and drops else None
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
        prefix = self.config.num_prefix_tokens
        mask = jnp.asarray(local_mask(rows, columns, self.config.local_window))
        # The class token sees all and is seen by all.
        return jnp.pad(mask, ((prefix, 0), (prefix, 0)), constant_values=True)[None, None]


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
    )


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
    ),
    _spec("b", 16, 86_859_496, "vit_base_patch16_384", image_size=384),
    _spec("b", 32, 88_224_232, "vit_base_patch32_224", "vit_b_32"),
    _spec("l", 16, 304_326_632, "vit_large_patch16_224", "vit_l_16"),
    _spec("l", 32, 306_535_400, "vit_large_patch32_224", "vit_l_32"),
    _spec("h", 14, 632_045_800, "vit_huge_patch14_224", "vit_h_14"),
    _spec("g", 14, 1_012_611_432, "vit_giant_patch14_224"),
)
