"""Pyramid Vision Transformer (v1): four stages of tokens, each on a grid of half the side."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.attention import MultiHeadAttention
from jaxvision.layers.block_stack import build_blocks, run_blocks
from jaxvision.layers.drop_path import drop_path, stage_drop_path_rates
from jaxvision.layers.dropout import draw_block_key, dropout
from jaxvision.layers.initializer import trunc_normal
from jaxvision.layers.mlp import Mlp
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.over_batch import over_batch
from jaxvision.layers.patch import PatchEmbed, check_divisible, prepend_tokens
from jaxvision.layers.position import resize_position_embedding
from jaxvision.layers.spatial_reduction import SpatialReduction
from jaxvision.layers.tap import tap, tap_facts
from jaxvision.models.attention_config import SizedConfig
from jaxvision.models.image_model import ImageModel
from jaxvision.models.spec import (
    HFPeer,
    ModelSpec,
    Preprocess,
    check_images,
    layer_dtypes,
)

_INIT = trunc_normal(0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PVTConfig(SizedConfig):
    """Every choice of a Pyramid Vision Transformer of the first version.

    Attributes:
      stage_depths: Number of blocks in each stage.
      stage_widths: Number of channels of a token in each stage.
      stage_heads: Number of attention heads in each stage.
      mlp_ratios: Ratio of the hidden channels of the MLP to the width, in each stage.
      reduction_ratios: Reduction in each stage: attention looks at one token for each patch of
        ratio x ratio; 1 in the last stage, whose class token has no place in the grid.
    """

    stage_depths: tuple[int, ...]
    stage_widths: tuple[int, ...] = (64, 128, 320, 512)
    stage_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    reduction_ratios: tuple[int, ...] = (8, 4, 2, 1)

    def __post_init__(self):
        super().__post_init__()
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
      config: Config of the model.
      stage: Index of the stage, from 0.
      rngs: Source of the initial values.

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
          tokens: Tokens of the block before.
          grid: Rows and columns of the tokens.
          drop_path_rate: Probability of dropping each branch.
          train: Whether every kind of dropping is on.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.
        """
        with tap_facts(grid=grid):
            normed, memory = tap("tokens", self.norm1(tokens)), None
        if self.reduction is not None:
            memory = self.reduction(normed.reshape(len(tokens), *grid, tokens.shape[-1]))
        with tap_facts(grid=grid):
            branch = self.attn(normed, memory, train=train, rngs=rngs)
        branch = dropout(branch, self.dropout_rate, train=train, rngs=rngs)
        tokens = tokens + drop_path(branch, drop_path_rate, train=train, rngs=rngs)
        branch = self.mlp(self.norm2(tokens), train=train, rngs=rngs)
        return tokens + drop_path(branch, drop_path_rate, train=train, rngs=rngs)


class PVTStage(nnx.Module):
    """Patches of a map as tokens with positions, then the blocks; a class token in the last stage.

    Args:
      config: Config of the model.
      stage: Index of the stage, from 0.
      drop_path_rates: Drop-path rate of each block.
      rngs: Source of the initial values.
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
        rows, columns = embedded.shape[1:3]
        prefix = [] if self.cls_token is None else [self.cls_token]
        tokens = prepend_tokens(prefix, embedded)
        positions = resize_position_embedding(
            self.pos_embed[...],
            self.grid,
            (rows, columns),
            num_prefix_tokens=self.num_prefix_tokens,
            interpolation="bilinear",
            antialias=False,
        )
        tokens = tokens + over_batch(positions.astype(tokens.dtype), len(tokens))
        tokens = dropout(tokens, config.dropout_rate, train=train, rngs=rngs)

        def step(block, tokens, rate, rngs):
            return block(
                tokens, grid=(rows, columns), drop_path_rate=rate, train=train, rngs=rngs
            ), None

        key = draw_block_key(rngs, *config.block_rates, train=train)
        tokens, _ = run_blocks(
            self.blocks, tokens, step, rates=self.drop_path_rates, key=key, remat=config.remat
        )
        return tokens, (rows, columns)


class PVT(ImageModel):
    """Pyramid Vision Transformer.

    Initial values: kernels, positions and class token trunc-normal 0.02, biases 0.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: Wang et al. 2021, Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction
      without Convolutions, https://arxiv.org/abs/2102.12122. The norms behind patches and
      reductions have the epsilon of the others, as in Hugging Face; the authors' code has 1e-5.
    """

    config: PVTConfig
    weight_sources = "jaxvision.interop.pvt:SOURCES"
    stage_tap = "tokens"

    def __init__(self, config: PVTConfig, *, rngs: nnx.Rngs):
        self.config = config
        rates = stage_drop_path_rates(config.drop_path_rate, config.stage_depths)
        self.stages = nnx.List(
            PVTStage(config, stage, drop_path_rates=each, rngs=rngs)
            for stage, each in enumerate(rates)
        )
        width = config.stage_widths[-1]
        self.norm = layer_norm(width, eps=config.norm_eps, rngs=rngs, **layer_dtypes(config.dtype))
        self.head = self.new_head(width, _INIT, rngs)

    def pool(
        self, features: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch channels"]:
        """Returns the class token."""
        return features[:, 0]

    def trunk(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch tokens features"], dict[int, jax.Array]]:
        """Returns the tokens of the last stage, the class token first, and the maps of all stages.

        The last map holds the patches among these tokens, which are normalised; the others are not.

        Both sides of the images must be multiples of 32.
        """
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
        hf_peer=HFPeer("Pvt", _hf_fields),
    )


def hf_stages(config: Any) -> dict[str, Any]:
    """Returns the fields that the configs of both versions share in transformers."""
    return {
        "hidden_sizes": config.stage_widths,
        "depths": config.stage_depths,
        "num_attention_heads": config.stage_heads,
        "mlp_ratios": config.mlp_ratios,
    }


def _hf_fields(config: PVTConfig) -> dict[str, Any]:
    reductions = {"sequence_reduction_ratios": config.reduction_ratios}
    return hf_stages(config) | reductions | {"image_size": config.image_size}


SPECS = (
    _spec("tiny", (2, 2, 2, 2), 13_229_288),
    _spec("small", (3, 4, 6, 3), 24_485_864),
    _spec("medium", (3, 4, 18, 3), 44_208_104),
    _spec("large", (3, 8, 27, 3), 61_369_320),
)
