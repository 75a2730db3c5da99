"""Pyramid Vision Transformer (v1): four stages of tokens, each on a grid of half the side."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.attention import MultiHeadAttention, check_implementation
from jaxvision.layers.block_stack import Remat, build_blocks, run_blocks
from jaxvision.layers.drop_path import drop_path, drop_path_rates
from jaxvision.layers.dropout import draw_key, dropout
from jaxvision.layers.head import linear_head
from jaxvision.layers.initializer import trunc_normal
from jaxvision.layers.mlp import Mlp
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.patch import PatchEmbed, check_divisible
from jaxvision.layers.position import resize_position_embedding
from jaxvision.layers.spatial_reduction import SpatialReduction
from jaxvision.models.image_model import ImageModel
from jaxvision.models.spec import (
    ModelSpec,
    Preprocess,
    check_images,
    check_rate,
    layer_dtypes,
    param_dtype,
)

_INIT = trunc_normal(0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PVTConfig:
    """Every choice of a Pyramid Vision Transformer of the first version.

    Attributes:
      stage_depths: blocks of each stage.
      stage_widths: channels of a token in each stage.
      stage_heads: attention heads of each stage.
      mlp_ratios: hidden channels of the MLP / width, of each stage.
      reduction_ratios: attention looks at one token for each patch of ratio x ratio; 1 in the last
        stage, whose class token has no place in the grid.
      image_size: pixels that the position tables are made for: side, or (height, width).
      in_channels: channels of the image.
      num_classes: outputs of the head; 0: no head, the call returns the class token.
      dropout_rate: after the positions, the attention's projection and both layers of the MLP.
      attention_dropout_rate: of attention weights.
      drop_path_rate: of the last block's branches; rises linearly from 0 over all stages.
      norm_eps: of every LayerNorm.
      attention: "fused", "reference" or "cudnn"; see `dot_product_attention`.
      remat: compute each block again in the backward pass instead of keeping its activations;
        "offload": and keep what goes into each in the memory of the host.
      scan: keep a stage's blocks stacked and run them by `jax.lax.scan`; False: a list and a loop.
      dtype: compute dtype; parameters and logits are float32 (float64 if this is).
    """

    stage_depths: tuple[int, ...]
    stage_widths: tuple[int, ...] = (64, 128, 320, 512)
    stage_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    reduction_ratios: tuple[int, ...] = (8, 4, 2, 1)
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    num_classes: int = 1000
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    norm_eps: float = 1e-6
    attention: str = "fused"
    remat: Remat = False
    scan: bool = True
    dtype: str = "float32"

    def __post_init__(self):
        check_implementation(self.attention)
        check_rate("dropout_rate", self.dropout_rate)
        check_rate("attention_dropout_rate", self.attention_dropout_rate)
        check_rate("drop_path_rate", self.drop_path_rate)
        check_stages(self)
        if self.reduction_ratios[-1] != 1:
            raise ValueError(
                "The last of reduction_ratios must be 1, because its stage has a class token, got "
                f"{self.reduction_ratios}."
            )
        check_divisible(*self.image_shape, self.stride(self.num_stages - 1))

    @property
    def num_stages(self) -> int:
        """Number of grids."""
        return len(self.stage_depths)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    def stride(self, stage: int) -> int:
        """Returns the pixels per token and side."""
        return 4 * 2**stage

    def grid(self, stage: int) -> tuple[int, int]:
        """Returns the rows and columns of tokens."""
        height, width = self.image_shape
        return height // self.stride(stage), width // self.stride(stage)


def check_stages(config: object) -> None:
    """Raises ValueError unless the fields that have one value per stage name the same stages."""
    names = ("stage_depths", "stage_widths", "stage_heads", "mlp_ratios", "reduction_ratios")
    values = {name: getattr(config, name) for name in names}
    if len({len(value) for value in values.values()}) != 1:
        listing = ", ".join(f"{name}={value}" for name, value in values.items())
        raise ValueError(f"Each stage needs one value of every kind, got {listing}.")


class PVTBlock(nnx.Module):
    """One pre-norm encoder block whose attention looks at a reduced grid.

    Args:
      config: of the model.
      stage: number of the stage, from 0.
      rngs: source of the initial values.

    Source: Wang et al. 2021, Pyramid Vision Transformer, figure 4 and section 3.3.
    """

    def __init__(self, config: PVTConfig, stage: int, *, rngs: nnx.Rngs):
        width, ratio = config.stage_widths[stage], config.reduction_ratios[stage]
        dtypes, eps = layer_dtypes(config.dtype), config.norm_eps
        self.norm1 = layer_norm(width, eps=eps, rngs=rngs, **dtypes)
        self.reduction = (
            None
            if ratio == 1
            else SpatialReduction(
                width, ratio, norm_eps=eps, kernel_init=_INIT, rngs=rngs, **dtypes
            )
        )
        self.attn = MultiHeadAttention(
            width,
            config.stage_heads[stage],
            attention_dropout_rate=config.attention_dropout_rate,
            implementation=config.attention,
            rngs=rngs,
            **dtypes,
        )
        self.norm2 = layer_norm(width, eps=eps, rngs=rngs, **dtypes)
        hidden = width * config.mlp_ratios[stage]
        self.mlp = Mlp(width, hidden, dropout_rate=config.dropout_rate, rngs=rngs, **dtypes)
        self.dropout_rate = config.dropout_rate

    def __call__(
        self,
        tokens: Float[Array, "batch tokens width"],
        *,
        grid: tuple[int, int],
        drop_path_rate: float | jax.Array = 0.0,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Returns the new tokens.

        Args:
          tokens: of the block before.
          grid: rows and columns of the tokens.
          drop_path_rate: probability of dropping each branch.
          train: turns every kind of dropping on.
          rngs: needed only if `train` and some rate is > 0.
        """
        normed, memory = self.norm1(tokens), None
        if self.reduction is not None:
            memory = self.reduction(normed.reshape(len(tokens), *grid, tokens.shape[-1]))
        branch = self.attn(normed, memory, train=train, rngs=rngs)
        branch = dropout(branch, self.dropout_rate, train=train, rngs=rngs)
        tokens = tokens + drop_path(branch, drop_path_rate, train=train, rngs=rngs)
        branch = self.mlp(self.norm2(tokens), train=train, rngs=rngs)
        return tokens + drop_path(branch, drop_path_rate, train=train, rngs=rngs)


class PVTStage(nnx.Module):
    """Patches of a map as tokens with positions, then the blocks; a class token in the last stage.

    Args:
      config: of the model.
      stage: number of the stage, from 0.
      drop_path_rates: of each block.
      rngs: source of the initial values.
    """

    def __init__(
        self,
        config: PVTConfig,
        stage: int,
        *,
        drop_path_rates: tuple[float, ...],
        rngs: nnx.Rngs,
    ):
        width, dtypes = config.stage_widths[stage], layer_dtypes(config.dtype)
        rows, columns = config.grid(stage)
        self.patch_embed = PatchEmbed(
            config.stage_widths[stage - 1] if stage else config.in_channels,
            width,
            patch_size=2 if stage else 4,
            kernel_init=_INIT,
            rngs=rngs,
            **dtypes,
        )
        self.patch_norm = layer_norm(width, eps=config.norm_eps, rngs=rngs, **dtypes)
        dtype = jnp.dtype(dtypes["param_dtype"])
        last = stage == config.num_stages - 1
        self.cls_token = nnx.Param(_INIT(rngs.params(), (1, 1, width), dtype)) if last else None
        self.num_prefix_tokens = 1 if last else 0
        num_tokens = self.num_prefix_tokens + rows * columns
        self.pos_embed = nnx.Param(_INIT(rngs.params(), (1, num_tokens, width), dtype))
        self.blocks = build_blocks(
            lambda rngs: PVTBlock(config, stage, rngs=rngs),
            config.stage_depths[stage],
            scan=config.scan,
            rngs=rngs,
        )
        self.config = config
        self.grid = rows, columns
        self.drop_path_rates = drop_path_rates

    def __call__(
        self,
        inputs: Float[Array, "batch height width channels"],
        *,
        train: bool,
        rngs: nnx.Rngs | None,
    ) -> tuple[Float[Array, "batch tokens features"], tuple[int, int]]:
        """Returns the tokens, the class token first, and the rows and columns of the others."""
        config = self.config
        embedded = self.patch_norm(self.patch_embed(inputs))
        batch, rows, columns, width = embedded.shape
        tokens = embedded.reshape(batch, rows * columns, width)
        if self.cls_token is not None:
            cls_token = jnp.broadcast_to(
                self.cls_token[...].astype(tokens.dtype), (batch, 1, width)
            )
            tokens = jnp.concatenate([cls_token, tokens], axis=1)
        positions = resize_position_embedding(
            self.pos_embed[...],
            self.grid,
            (rows, columns),
            num_prefix_tokens=self.num_prefix_tokens,
            interpolation="bilinear",
            antialias=False,
        )
        tokens = tokens + positions.astype(tokens.dtype)
        tokens = dropout(tokens, config.dropout_rate, train=train, rngs=rngs)

        def step(block, tokens, rate, rngs):
            return block(
                tokens, grid=(rows, columns), drop_path_rate=rate, train=train, rngs=rngs
            ), None

        drops = max(config.dropout_rate, config.attention_dropout_rate, config.drop_path_rate) > 0.0
        key = draw_key(rngs, "dropout or drop path") if train and drops else None
        tokens, _ = run_blocks(
            self.blocks, tokens, step, rates=self.drop_path_rates, key=key, remat=config.remat
        )
        return tokens, (rows, columns)


class PVT(ImageModel):
    """Pyramid Vision Transformer.

    Initial values: kernels, positions and class token trunc-normal 0.02, biases 0.

    Args:
      config: every choice.
      rngs: source of the initial values.

    Source: Wang et al. 2021, Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction
      without Convolutions, https://arxiv.org/abs/2102.12122. The norms behind patches and
      reductions have the epsilon of the others, as in Hugging Face; the authors' code has 1e-5.
    """

    def __init__(self, config: PVTConfig, *, rngs: nnx.Rngs):
        self.config = config
        rates = iter(drop_path_rates(config.drop_path_rate, sum(config.stage_depths)))
        self.stages = nnx.List(
            PVTStage(
                config, stage, drop_path_rates=tuple(itertools.islice(rates, depth)), rngs=rngs
            )
            for stage, depth in enumerate(config.stage_depths)
        )
        width = config.stage_widths[-1]
        self.norm = layer_norm(width, eps=config.norm_eps, rngs=rngs, **layer_dtypes(config.dtype))
        self.head = linear_head(
            width,
            config.num_classes,
            kernel_init=_INIT,
            param_dtype=param_dtype(config.dtype),
            rngs=rngs,
        )

    def classify(
        self,
        features: Float[Array, "batch tokens features"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch outputs"]:
        """Returns the logits, or what the head would read, of what `features` returned."""
        del train, rngs
        pooled = features[:, 0].astype(param_dtype(self.config.dtype))
        return pooled if self.head is None else self.head(pooled)

    def features(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch tokens features"]:
        """Returns the tokens of the last stage after the final norm, the class token first.

        Args:
          images: normalised; both sides multiples of 32.
          train: turns every kind of dropping on.
          rngs: needed only if `train` and some rate is > 0.
        """
        return self.trunk(images, train=train, rngs=rngs)[0]

    def trunk(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch tokens features"], dict[int, jax.Array]]:
        """Returns what `features` and what `pyramid` return, of one pass; see there."""
        config = self.config
        check_images(images, config.in_channels)
        height, width = images.shape[1:3]
        check_divisible(height, width, config.stride(config.num_stages - 1))
        maps, outputs, tokens = {}, images, images
        for i, stage in enumerate(self.stages):
            tokens, grid = stage(outputs, train=train, rngs=rngs)
            if i == config.num_stages - 1:
                tokens = self.norm(tokens)
            patches = tokens[:, stage.num_prefix_tokens :]
            outputs = patches.reshape(len(images), *grid, patches.shape[-1])
            maps[config.stride(i)] = outputs
        return tokens, maps

    def pyramid(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> dict[int, jax.Array]:
        """Returns the maps of all stages by their stride in pixels, the finest first.

        The last one holds the patches of `features`, after the final norm; the others are not
        normalised.

        Args:
          images: normalised; both sides multiples of 32.
          train: turns every kind of dropping on.
          rngs: needed only if `train` and some rate is > 0.
        """
        return self.trunk(images, train=train, rngs=rngs)[1]


def _spec(name: str, stage_depths: tuple[int, ...], num_params: int) -> ModelSpec:
    return ModelSpec(
        name=f"pvt_{name}",
        family="pvt",
        build=PVT,
        config=PVTConfig(stage_depths=stage_depths),
        image_size=224,
        preprocess=Preprocess(interpolation="bicubic"),
        num_params=num_params,
        source="Wang et al. 2021, table 1",
        hf=f"Xrenya/pvt-{name}-224",
    )


SPECS = (
    _spec("tiny", (2, 2, 2, 2), 13_229_288),
    _spec("small", (3, 4, 6, 3), 24_485_864),
    _spec("medium", (3, 4, 18, 3), 44_208_104),
    _spec("large", (3, 8, 27, 3), 61_369_320),
)
